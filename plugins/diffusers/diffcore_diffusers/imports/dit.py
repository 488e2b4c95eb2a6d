"""Reads `DiTTransformer2DModel`."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from diffcore.errors import UserError
from diffcore_diffusers.imports.configs import made, options_of, sides_of
from diffcore_diffusers.options.dit import HfDiTOptions
from diffcore_diffusers.schedulers import Scheduler

_DEFAULTS: Mapping[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "num_layers": 28,
    "sample_size": 32,
}
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "norm_type": ("ada_norm_zero",),
    "norm_elementwise_affine": (False,),
    "upcast_attention": (False,),
    "only_cross_attention": (False,),
    "double_self_attention": (False,),
    "use_linear_projection": (False,),
    "attention_type": ("default",),
}


def dit_options(config: Mapping[str, Any], scheduler: Scheduler, origin: str) -> tuple[HfDiTOptions, int, int]:
    """The options of `hf-dit`, and the channels and the side of the states, of a `DiTTransformer2DModel`.

    Raises `UserError` for values that are not known.
    """
    others = ("in_channels", "out_channels", "sample_size", "norm_num_groups")
    values = options_of(config, HfDiTOptions, origin, _DEFAULTS, _ONLY, others)
    channels, side = values["in_channels"], sides_of(values["sample_size"], origin)[0]
    outputs = values.get("out_channels", channels)
    if not isinstance(channels, int) or outputs not in (channels, 2 * channels):
        raise UserError(f"{origin}: out_channels must be in_channels, {channels}, or twice as many, not {outputs}")
    learned = outputs == 2 * channels
    options = made(HfDiTOptions, values, origin, table=scheduler.table.model_dump(), learns_variances=learned)
    return options, channels, side


def class_names(labels: Any, count: int, origin: str) -> tuple[str, ...]:
    """The names of the classes 0 to `count` - 1, which are their numbers where `labels` has none.

    Names that occur several times get their number too. Raises `UserError` unless `labels` is a table of names.
    """
    table = {} if labels is None else labels
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise UserError(f"{origin}: id2label must be a table from numbers to names")
    names = [table.get(str(number)) or str(number) for number in range(count)]
    times = Counter(names)

    def numbered(name: str, number: int) -> str:
        found = name
        while times[found] > (found == name):  # until no other class has it
            found += f" ({number})"
        return found

    return tuple(numbered(name, number) for number, name in enumerate(names))
