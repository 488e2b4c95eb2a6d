"""Guidance as records: what a builder of guidance may use and return, and how a list of guidances is applied."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from diffcore.denoising.conditions import Condition, Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.errors import shortened
from diffcore.plugins.data import Codec
from diffcore.plugins.records import Modality
from diffcore.sampling.particles import Factor
from diffcore.states.level import Levels
from diffcore.states.spaces import Mask
from diffcore.states.state import State

Decorator = Callable[[Denoise], Denoise]
"""The simplest guidance: a function that takes a denoiser and returns a denoiser."""


class LoadNetwork(Protocol):
    """Loads the network of another run, which must fit the model that is guided: same kind of data, same space.

    `source` is the folder of a run, or the name of a checkpoint of the guided run itself; `use` is what its network is
    used as, "weak" or "classifier", as `diffcore.plugins.records.Task.helps` has them. Raises `UserError` if there is
    no such run, or if its network cannot guide this model.
    """

    def __call__(self, source: str, use: str) -> nn.Module: ...


@dataclass(frozen=True)
class GuidanceContext:
    """What the builder of a guidance may use, besides its options.

    * `modality`, `codec`: the kind of data, with its reader of files, and the codec, with the space of the states and
      the conditions of the model.
    * `conditions`: the conditions that can be requested: those of the model and of the guidances before in the list.
    * `load`: loads the network of another run.
    """

    modality: Modality
    codec: Codec
    conditions: tuple[Condition, ...]
    load: LoadNetwork


@dataclass(frozen=True)
class Guidance:
    """One guidance of a list. A builder may return it in place of a `Decorator` to say more about itself.

    * `decorate(denoise, plain)`: the denoiser `denoise`, which all guidances before in the list have decorated, with
      this guidance. `plain` is the denoiser without any. Return `denoise` itself if there is nothing to change; the
      guidance is then left out of the list.
    * `towards`: the conditions that it guides to, of which one must be given in some sample; None if it needs none.
      Conditions that the model does not have can be requested too.
    * `is_base`: whether the model with this guidance alone counts as `plain` for the guidances after it.
    * `asks`: the conditions that it sets for all samples, a value `[...]` each, by name. They cannot be requested
      besides.
    * `captions`: what is written beside all samples in place of the captions of these values, by name of the condition.
    * `least_size`: the number of elements that samples must at least have, where samples are sets.
    * `tensors`: what was read from the files that options name, by the value of the option. A recipe of samples
      contains their digest in place of that value, since files can be moved and changed. Networks that `load` returned
      are added when the list is made.
    * `factor`: the factor on the density of samples that it stands for, with which particles are weighted; None if it
      has none. A guidance with a factor may leave the denoiser as it is.
    * `name`, `options`: how the list names it; filled in when the list is made.
    """

    decorate: Callable[[Denoise, Denoise], Denoise]
    towards: tuple[Condition, ...] | None = None
    is_base: bool = False
    asks: Mapping[str, Tensor] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    least_size: int = 0
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    factor: Factor | None = None
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The name, with the options in brackets."""
        return words_of(self.name, self.options)


def words_of(name: str, options: Mapping[str, Any]) -> str:
    """The name of a part, with its options in brackets."""
    written = ", ".join(f"{option} {_written(value)}" for option, value in options.items() if value not in (None, {}))
    return name + (f" ({written})" if written else "")


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return " and ".join(f"{shortened(name, 80)} {_written(entry)}" for name, entry in value.items())
    return f"{value:g}" if isinstance(value, float) else shortened(str(value), 80)


def as_guidance(part: Guidance | Decorator) -> Guidance:
    """What a builder returned, or a caller passed, as a `Guidance`."""
    return part if isinstance(part, Guidance) else Guidance(lambda denoise, plain: part(denoise))


def guided_by(guides: Sequence[Guidance], denoise: Denoise) -> Denoise:
    """The denoiser with all guidances, the first one innermost."""
    return _applied(guides, denoise)[0]


def with_effect(guides: Sequence[Guidance]) -> tuple[Guidance, ...]:
    """The guidances that change anything or have a factor: neither a weight of 1, nor an interval of no guidance."""
    changes = _applied(guides, _never_called)[1]
    return tuple(guide for guide, changed in zip(guides, changes, strict=True) if changed or guide.factor is not None)


def changes_denoiser(guides: Sequence[Guidance]) -> bool:
    """Whether any guidance changes the denoiser, as one with a gradient does."""
    return any(_applied(guides, _never_called)[1])


def _never_called(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
    raise AssertionError("guidance calls the denoiser only when it is called itself")


def without_conditions(guides: Sequence[Guidance]) -> tuple[Guidance, ...]:
    """The guidances that need no conditions, without those that then have nothing to change."""
    return with_effect([guide for guide in guides if guide.towards is None])


def _applied(guides: Sequence[Guidance], plain: Denoise) -> tuple[Denoise, list[bool]]:
    """The guided denoiser, and whether each guidance changed it."""
    denoise, changes = plain, []
    for guide in guides:
        decorated = guide.decorate(denoise, plain)
        changes.append(decorated is not denoise)
        if guide.is_base:
            plain = decorated if denoise is plain else guide.decorate(plain, plain)
        denoise = decorated
    return denoise, changes
