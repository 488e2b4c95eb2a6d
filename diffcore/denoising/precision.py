"""How networks compute: the numbers inside of them, and whether torch.compile has translated them."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from diffcore.errors import UserError, first_line
from diffcore.names import Precision
from diffcore.states.state import State, first_field, map_fields

Network = TypeVar("Network", bound=nn.Module)


def compute_in(network: Network, precision: Precision, compiled: bool = False) -> Network:
    """The denoiser or classifier, whose backbone computes in that precision and is compiled when it is first called.

    Weights, what the log-SNR and the conditions are made into, and everything outside the network stay float32.
    Compiling changes neither the weights nor their names.
    """
    network.precision = precision  # type: ignore[assignment]
    if compiled:
        network.backbone.compile()  # type: ignore[operator, union-attr]
    return network


def computed(backbone: nn.Module, precision: Precision, x: State, *context: Any) -> Any:
    """backbone(x, *context): a state, a tensor or a pair of them, in the type of `x` whatever it was computed in.

    Raises `UserError` where it cannot be compiled.
    """
    try:
        if precision == "float32":
            return backbone(x, *context)
        kind, dtype = first_field(x).device.type, first_field(x).dtype
        with torch.autocast(kind, torch.bfloat16):
            output = backbone(x, *context)
    except Exception as error:
        if not _is_of_compiler(error):
            raise
        raise UserError(
            f"torch.compile does not work here ({first_line(error)}): leave out `train.compile`, or `compile`"
        ) from None

    def back(field: Tensor) -> Tensor:
        return field.to(dtype)

    return tuple(map_fields(back, part) for part in output) if isinstance(output, tuple) else map_fields(back, output)


def _is_of_compiler(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
