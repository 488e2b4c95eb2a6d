"""What networks of diffusers are told: they embed their time and their class themselves, as numbers of a table."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffcore.denoising.conditions import ClassCondition, Condition, Conditions
from diffcore.denoising.embedded_once import embedded
from diffcore.denoising.inputs import Embedded, together
from diffcore.denoising.text import TextCondition
from diffcore.errors import UserError
from diffcore_diffusers import tables
from diffcore_diffusers.options.tables import BetaTableOptions

NEAR = 2e-3
"""Timesteps nearer than this to a whole number are that number: networks are told float32 log-SNRs."""

WIDTH = 2
"""A timestep and a class."""


class Told(nn.Module):
    """The timestep and the class of each sample, `[B, 2]`, which a network embeds itself, and the tokens of a text.

    The timestep of a log-SNR is t(lambda) (T - 1), where t(lambda) is the inverse of the schedule of the `table`,
    clamped to [0, T - 1].

    * `none`: the number that the network has for no class.

    Its only weights are those of the text encoder.
    """

    def __init__(self, table: BetaTableOptions, conditions: Sequence[Condition] = (), none: int = 0) -> None:
        super().__init__()
        self.shapes = {condition.name: condition.shape for condition in conditions}
        self.width, self.inputs = WIDTH, together([condition.inputs for condition in conditions])
        self._schedule, self._last, self._none = tables.schedule(table), tables.length(table) - 1, none
        self._classes = {each.name: len(each.classes) for each in conditions if isinstance(each, ClassCondition)}
        self._texts = [each.name for each in conditions if isinstance(each, TextCondition)]
        texts = [each.embedding(WIDTH) for each in conditions if isinstance(each, TextCondition)]
        self.texts = nn.ModuleList(texts)

    def forward(self, log_snr: Tensor, conditions: Conditions) -> Embedded:
        times = (self._schedule.time(log_snr.double()) * self._last).clamp(0, self._last)
        whole = times.round()
        times = torch.where((times - whole).abs() < NEAR, whole, times)
        labels = torch.full_like(times, self._none)
        for name, count in self._classes.items():
            labels = torch.where(conditions[name] < count, conditions[name].to(times), labels)
        vector = torch.stack([times, labels], dim=1).float()
        tokens = None
        for name, network in zip(self._texts, self.texts, strict=True):
            found = embedded(network, conditions[name])
            assert isinstance(found, Embedded)
            tokens = found.tokens
        return Embedded(vector, tokens)


def told(
    denoiser: str,
    table: BetaTableOptions,
    conditions: tuple[Condition, ...],
    level_fields: Sequence[str],
    none: int | None = None,
    text: bool = False,
) -> Told:
    """What the `denoiser` is told. `none` is its number for no class, if it takes a class, and `text` says if a text.

    Raises `UserError` for other conditions, and for levels by field.
    """
    if level_fields:
        raise UserError(f"the denoiser {denoiser} is told one noise level")
    able: tuple[type[Condition], ...] = ((ClassCondition,) if none is not None else ()) + (
        (TextCondition,) if text else ()
    )
    kinds = [type(condition) for condition in conditions]
    if any(kind not in able or kinds.count(kind) > 1 for kind in kinds):
        words = ["one class"] * (none is not None) + ["a text"] * text
        names = ", ".join(condition.name for condition in conditions)
        raise UserError(
            f"the denoiser {denoiser} takes {' and '.join(words) or 'no conditions'}"
            f"{' and no other conditions' if words else ''}; these data have: {names}"
        )
    return Told(table, conditions, none or 0)
