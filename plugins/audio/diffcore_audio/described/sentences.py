"""Parameters of synthesised drums to sentences, such as "a long low tom" or "a crisp hi-hat that is short".

Words are relative to the instrument: the lower third of the pitches of toms is low, and the upper third is high. Of the
third in the middle, nothing is said.
"""

from collections.abc import Mapping, Sequence

import torch
from numpy import ndarray
from torch import Generator, Tensor

from diffcore.plugins.wordings import UNSAID, one_of, said, with_article
from diffcore_audio.data.synthesis import INSTRUMENTS, RANGES, Sounds

WORDINGS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "instrument": {
        "kick": ("kick", "kick drum", "bass drum"),
        "snare": ("snare", "snare drum"),
        "hihat": ("hi-hat", "hat"),
        "tom": ("tom", "tom-tom"),
        "clap": ("clap", "hand clap"),
        "cowbell": ("cowbell",),
    },
    "pitch": {"low": ("low", "deep", "low-pitched"), "high": ("high", "high-pitched")},
    "length": {"short": ("short", "dry", "brief"), "long": ("long", "ringing", "sustained")},
    "brightness": {"dark": ("dark", "dull", "muffled"), "bright": ("bright", "crisp", "sharp")},
}
"""What is said of a sound, and how."""

PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "kick": {"pitch": "pitch", "length": "decay"},
    "snare": {"pitch": "pitch", "length": "wires_decay", "brightness": "brightness"},
    "hihat": {"length": "decay", "brightness": "edge"},
    "tom": {"pitch": "pitch", "length": "decay"},
    "clap": {"length": "decay", "brightness": "pitch"},
    "cowbell": {"pitch": "pitch", "length": "decay"},
}
"""The parameter of `diffcore_audio.data.synthesis` that each attribute of an instrument is."""

LEFT_OUT = 0.15
"""How often an attribute is not said, so that sentences also say little."""

_OPENINGS = ("", "", "", "the sound of", "i hear")


def values_of(instrument: str, sounds: Sounds) -> dict[str, Tensor]:
    """The values of sounds of an instrument, by attribute of `WORDINGS`."""
    count = len(sounds.waveform)
    number = torch.full((count,), [*INSTRUMENTS].index(instrument))
    values = {"instrument": number, **{name: torch.full((count,), UNSAID) for name in [*WORDINGS][1:]}}
    for attribute, parameter in PARAMETERS[instrument].items():
        values[attribute] = _third(RANGES[instrument][parameter].place(sounds.parameters[parameter]))
    return values


def _third(place: ndarray) -> Tensor:
    """0 in the lower third, 1 in the upper third, and `UNSAID` between them."""
    found = torch.from_numpy(place)
    return torch.where(found < 1 / 3, 0, torch.where(found > 2 / 3, 1, UNSAID))


def write(values: Mapping[str, Tensor], generator: Generator, complete: bool = False) -> list[str]:
    """A sentence for each sound, with the wording drawn at random.

    With `complete`, every sentence says all that there is to say.
    """
    everything = {name: value for name, value in values.items() if name != "instrument"}
    instruments = said({"instrument": values["instrument"]}, WORDINGS, generator)
    words = said(everything, WORDINGS, generator, 0.0 if complete else LEFT_OUT)
    drawn = torch.rand(len(words), 3, generator=generator).tolist()
    return [
        _sentence(noun["instrument"], list(row.values()), *u)
        for noun, row, u in zip(instruments, words, drawn, strict=True)
    ]


def _sentence(noun: str, adjectives: list[str], opening: float, order: float, form: float) -> str:
    """One sentence of a noun and its adjectives; its choices take the three numbers in [0, 1)."""
    start = int(order * len(adjectives)) if adjectives else 0
    turned = adjectives[start:] + adjectives[:start]
    behind = turned[-1:] if turned and form < 0.25 else []
    phrase = with_article(" ".join([*turned[: len(turned) - len(behind)], noun]))
    ending = f" that is {behind[0]}" if behind else ""
    return f"{one_of(_OPENINGS, opening)} {phrase}{ending}".strip()
