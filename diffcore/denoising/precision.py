"""How networks compute: the type of their numbers, and compilation by torch.compile."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from diffcore.errors import UserError, first_line
from diffcore.names import Precision
from diffcore.states.state import State, first_field, map_fields

Network = TypeVar("Network", bound=nn.Module)

SHAPES = 32
"""The number of shapes of batches for which a network is compiled, each with gradients and without counting as two.

Beyond, which is 8 by default, PyTorch computes without the compiler.
"""


def backbone_of(network: nn.Module) -> nn.Module:
    """The backbone of a denoiser, a classifier or another module that has one; otherwise the module itself."""
    backbone = getattr(network, "backbone", network)
    return backbone if isinstance(backbone, nn.Module) else network


def compute_in(network: Network, precision: Precision, compiled: bool = False) -> Network:
    """Set the precision in which the backbone of a denoiser or classifier computes, and return the network.

    The weights, the embeddings of the log-SNR and of the conditions, and everything outside the backbone stay float32.
    If `compiled`, the backbone is compiled at its first call, which changes neither the weights nor their names.
    Raises `UserError` for a module without `backbone` and `precision`, which computes in float32 and is not compiled.
    """
    if not (hasattr(network, "backbone") and hasattr(network, "precision")):
        if precision != "float32" or compiled:
            asked = f"`precision` {precision}" if precision != "float32" else "`compile`"
            raise UserError(f"{asked} does not work with the network {type(network).__name__}: leave it out")
        return network
    network.precision = precision  # type: ignore[assignment]
    if compiled:
        import torch._dynamo  # it takes as long to import as PyTorch itself

        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, SHAPES)
        backbone_of(network).compile()
    return network


def computed(backbone: nn.Module, precision: Precision, x: State, *context: Any, **inputs: Any) -> Any:
    """backbone(x, *context, **inputs), computed in `precision` and returned in the type of `x`.

    The result is a state, a tensor or a pair of them. Raises `UserError` if the backbone cannot be compiled.
    """
    try:
        if precision == "float32":
            return backbone(x, *context, **inputs)
        kind, dtype = first_field(x).device.type, first_field(x).dtype
        with torch.autocast(kind, torch.bfloat16):
            output = backbone(x, *context, **inputs)
    except Exception as error:
        if not _is_from_compiler(error):
            raise
        raise UserError(
            f"torch.compile does not work here ({first_line(error)}): leave out `train.compile`, or `compile`"
        ) from None

    def cast(field: Tensor) -> Tensor:
        return field.to(dtype)

    return tuple(map_fields(cast, part) for part in output) if isinstance(output, tuple) else map_fields(cast, output)


def _is_from_compiler(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
