"""Scenes to sentences and back, from one table of wordings.

Sentences are plain words without punctuation, such as "a small red circle to the left of a big blue square". Not
every sentence says everything: the size of an object, or the relation of two objects, may be left out. Every scene has
sentences of both orders, because what is left of a circle has the circle on its right.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Generator

from diffcore_image.scenes.scene import COLOURS, RELATIONS, SHAPES, SIZES, UNKNOWN, Scenes, joined

_SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
_SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus"),
}
_OPENINGS = ("", "", "", "there is", "a picture of", "draw", "i see")
_OBJECTS = ("{size} {colour} {shape}", "{size} {colour} {shape}", "{size} {shape} in {colour}")
"""Wordings of an object, without its article. The first one is the usual one."""
_OBJECTS_WITHOUT_SIZE = ("{colour} {shape}", "{shape} in {colour}")
_PAIRS = {
    "left": ("{a} left of {b}", "{a} to the left of {b}", "{a} on the left and {b} on the right"),
    "right": ("{a} right of {b}", "{a} to the right of {b}", "{b} with {a} to its right"),
    "above": ("{a} above {b}", "{a} over {b}", "{a} at the top and {b} at the bottom", "{b} with {a} above it"),
    "below": ("{a} below {b}", "{a} under {b}", "{a} beneath {b}", "{b} with {a} below it"),
}
"""Wordings of two objects, by the relation of `a` to `b`."""
_PAIRS_WITHOUT_RELATION = ("{a} and {b}",)

_WITHOUT_SIZE, _WITHOUT_RELATION = 0.1, 0.1
"""How often the size of an object and the relation of two objects are left out."""


def write(scenes: Scenes, generator: Generator, complete: bool = False) -> list[str]:
    """A sentence for each scene, with the wording drawn at random.

    With `complete`, every sentence says all that its scene is.
    """
    scenes = _either_order(scenes, generator)
    drawn = torch.rand(len(scenes), 11, generator=generator).tolist()
    objects = torch.stack([scenes.colour, scenes.shape, scenes.size], 2).tolist()
    rows = zip(scenes.count.tolist(), objects, scenes.relation.tolist(), drawn, strict=True)
    return [_sentence(each[:count], relation, iter(u), complete) for count, each, relation, u in rows]


def _either_order(scenes: Scenes, generator: Generator) -> Scenes:
    """The scenes, in half of which, drawn at random, the second object is named first."""
    order = torch.randperm(len(scenes), generator=generator)
    half = len(scenes) // 2
    mixed = joined([scenes[order[:half]].swapped(), scenes[order[half:]]])
    return mixed[order.argsort()]


def _sentence(objects: Sequence[Sequence[int]], relation: int, u: Iterator[float], complete: bool) -> str:
    """The sentence of one scene; its choices take the numbers `u` in [0, 1)."""
    texts = [_object(colour, shape, size, u, complete) for colour, shape, size in objects]
    opening = _chosen(_OPENINGS, next(u))
    if len(texts) == 1:
        return f"{opening} {texts[0]}".strip()
    told = next(u) >= _WITHOUT_RELATION or complete
    wordings = _PAIRS[RELATIONS[relation]] if told else _PAIRS_WITHOUT_RELATION
    return f"{opening} {_chosen(wordings, next(u)).format(a=texts[0], b=texts[1])}".strip()


def _object(colour: int, shape: int, size: int, u: Iterator[float], complete: bool) -> str:
    words = {
        "colour": [*COLOURS][colour],
        "shape": _chosen(_SHAPE_WORDS[SHAPES[shape]], next(u)),
        "size": _chosen(_SIZE_WORDS[SIZES[size]], next(u)),
    }
    told = next(u) >= _WITHOUT_SIZE or complete
    text = _chosen(_OBJECTS if told else _OBJECTS_WITHOUT_SIZE, next(u)).format(**words)
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _chosen(options: Sequence[str], u: float) -> str:
    return options[int(u * len(options))]


def read(sentences: Sequence[str]) -> Scenes:
    """The scenes that sentences describe.

    What a sentence does not say is `UNKNOWN`. A sentence in other words than those of the table has the count 0, and
    nothing of it is known. Upper case and punctuation do not matter.
    """
    known = {sentence: _read(sentence) for sentence in set(sentences)}
    return joined([known[sentence] for sentence in sentences])


def _alternatives(words: Mapping[str, Sequence[str]] | Sequence[str], name: str) -> str:
    texts = words if isinstance(words, Sequence) else [text for several in words.values() for text in several]
    return f"(?P<{name}>{'|'.join(sorted(texts, key=len, reverse=True))})"


_OBJECT_PATTERNS = [
    re.compile(
        wording.format(
            size=_alternatives(_SIZE_WORDS, "size"),
            colour=_alternatives([*COLOURS], "colour"),
            shape=_alternatives(_SHAPE_WORDS, "shape"),
        )
    )
    for wording in (*_OBJECTS[1:], *_OBJECTS_WITHOUT_SIZE)
]
_PAIR_PATTERNS = [
    (relation, re.compile(wording.format(a="an? (?P<a>.+?)", b="an? (?P<b>.+?)")))
    for relation, wordings in (*_PAIRS.items(), (None, _PAIRS_WITHOUT_RELATION))
    for wording in wordings
]
_OPENING = re.compile(f"(?:{'|'.join(filter(None, _OPENINGS))}) (?=an? )")
_INDEX = {
    word: index for table in (_SIZE_WORDS, _SHAPE_WORDS) for index, words in enumerate(table.values()) for word in words
} | {colour: index for index, colour in enumerate(COLOURS)}


def _read(sentence: str) -> Scenes:
    text = " ".join(re.findall("[a-z]+", sentence.lower()))
    if opening := _OPENING.match(text):
        text = text[opening.end() :]
    if found := _read_object(re.sub("^an? ", "", text)):
        return _scene([found], UNKNOWN)
    for relation, pattern in _PAIR_PATTERNS:
        if match := pattern.fullmatch(text):
            first, second = (_read_object(match[name]) for name in ("a", "b"))
            if first and second:
                return _scene([first, second], UNKNOWN if relation is None else RELATIONS.index(relation))
    return _scene([], UNKNOWN)


def _read_object(text: str) -> dict[str, int] | None:
    for pattern in _OBJECT_PATTERNS:
        if match := pattern.fullmatch(text):
            return {name: _INDEX[word] for name, word in match.groupdict().items()}
    return None


def _scene(objects: Sequence[Mapping[str, int]], relation: int) -> Scenes:
    filled = [*objects, {}, {}][:2]
    columns = {
        name: torch.tensor([[each.get(name, UNKNOWN) for each in filled]]) for name in ("colour", "shape", "size")
    }
    return Scenes(count=torch.tensor([len(objects)]), relation=torch.tensor([relation]), **columns)
