"""The data set `scenes`: pictures of one or two objects, with sentences that describe them."""

from dataclasses import replace

import torch
from tensordict import TensorDict
from torch import Generator

from diffcore.plugins.data import Data
from diffcore.plugins.ledger import Ledger
from diffcore.plugins.text import indexed
from diffcore.states.noise import generator_for
from diffcore_image.datasets import data, examples
from diffcore_image.options import ScenesOptions
from diffcore_image.scenes.draw import placed, random_scenes
from diffcore_image.scenes.render import render
from diffcore_image.scenes.scene import COLOURS, RELATIONS, SHAPES, SIDE, SIZES, Scenes, joined
from diffcore_image.scenes.sentences import write
from diffcore_image.scenes.split import held_out

WORDINGS = 2
"""Sentences of each training picture, of which training draws one at random."""


def scenes(options: ScenesOptions) -> Data:
    """Rendered scenes of 32x32 pixels with sentences, of one object or, as often as `two_objects` says, of two.

    No training picture shows a combination of `diffcore_image.scenes.split`. The pictures for evaluation are, in turn,
    one object and two objects of combinations that training has, and one object and two objects with one that it does
    not have. Their sentences say everything; one of ten in training leaves out a size or the relation.
    """
    generator = generator_for(options.seed, "scenes")
    two = round(options.two_objects * options.pictures)
    training = _groups((options.pictures - two, two), generator, of_held_out=False)
    quarter = options.held_out // 4
    unseen = [
        group
        for of_held_out in (False, True)
        for group in _groups((quarter, quarter), generator, of_held_out=of_held_out)
    ]
    parts: list[TensorDict] = []
    captions: list[tuple[str, ...]] = []
    for groups, complete, wordings in ((training, False, WORDINGS), (unseen, True, 1)):
        mixed = _in_turn(groups)
        pixels = render(placed(mixed, generator))
        parts.append(examples(pixels, torch.zeros(len(mixed))))
        sentences = [write(mixed, generator, complete) for _ in range(wordings)]
        captions += zip(*sentences, strict=True)
    texts, numbers = indexed(captions)
    train, test = (
        TensorDict({**part, "captions": own}, batch_size=part.batch_size)
        for part, own in zip(parts, numbers.split([len(part) for part in parts]), strict=True)
    )
    made = data(train, test, (), ledger=Ledger("pictures", about=_about()), texts=texts)
    return replace(made, facts=made.facts.model_copy(update={"judge": "scenes"}))


def _groups(counts: tuple[int, int], generator: Generator, of_held_out: bool) -> list[Scenes]:
    """So many scenes of one object and of two, which contain a combination that is held out, or none."""
    found: list[Scenes] = []
    while not found or any(len(group) < n for group, n in zip(found, counts, strict=True)):
        drawn = random_scenes(4 * sum(counts), generator)
        drawn = drawn[held_out().contains(drawn) == of_held_out]
        groups = [drawn[drawn.count == count] for count in (1, 2)]
        found = [joined(list(pair)) for pair in zip(found, groups, strict=True)] if found else groups
    return [group[:n] for group, n in zip(found, counts, strict=True)]


def _in_turn(groups: list[Scenes]) -> Scenes:
    """The scenes of all groups mixed evenly; of groups of one size, the first of each, then the second, and so on."""
    place = torch.cat([(torch.arange(len(group)) + 0.5) / max(len(group), 1) for group in groups])
    return joined(groups)[place.argsort(stable=True)]


def _about() -> dict[str, str]:
    kinds = f"{len(COLOURS)} colours, {len(SHAPES)} shapes, {len(SIZES)} sizes, {len(RELATIONS)} relations"
    return {"size": f"{SIDE}x{SIDE} pixels", "objects": f"one or two, of {kinds}"}
