"""Building a network of which each of several processes keeps its rows of each weight only.

Every process runs the same constructors with the same random numbers, so the rows are those of the network that one
process builds, and nothing is sent. A weight is cut when the module that has it becomes a part of another module: its
constructor has set its initial values by then. So the whole of a layer is in memory, but not that of the network.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode

from diffcore.system.distributed import rank, world


class TouchedAgainError(Exception):
    """The constructor of a module reads or changes weights of its parts, which are cut already."""


def own_rows(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this process keeps: ceil(rows / N) consecutive ones, as FSDP2 divides them among N.

    The last processes may have fewer, or none.
    """
    parts = tensor.contiguous().chunk(world())
    return parts[rank()].clone() if rank() < len(parts) else tensor.new_empty((0, *tensor.shape[1:]))


class OwnRows:
    """The rows of weights that were cut: the weights themselves are on the meta device then."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[nn.Parameter, Tensor]] = {}
        self._storages: dict[int, tuple[Any, int]] = {}

    def of(self, network: nn.Module) -> dict[str, Tensor]:
        """The rows of each parameter of a network, by name."""
        return {name: self._rows[id(own)][1] for name, own in network.named_parameters() if id(own) in self._rows}

    def cut(self, part: nn.Module) -> None:
        """Keep the own rows of the weights of a module and its parts, and give up the whole ones."""
        for parameter in list(part.parameters()):
            if (
                id(parameter) in self._rows
                or parameter.is_meta
                or not parameter.ndim
                or not parameter.is_floating_point()
            ):
                continue
            rows = own_rows(parameter.detach())
            empty = nn.Parameter(torch.empty(parameter.shape, device="meta", dtype=parameter.dtype))
            empty.requires_grad_(parameter.requires_grad)
            torch.utils.swap_tensors(parameter, empty)  # also where it is shared by several modules
            storage = parameter.untyped_storage()
            self._rows[id(parameter)] = (parameter, rows)
            self._storages[storage._cdata] = (storage, id(parameter))

    def call(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Call a function, and do with the rows what it does with whole weights.

        Raises `TouchedAgainError` if that is not possible.
        """
        copied = None
        for value in _tensors((args, kwargs)):
            if not value.is_meta or (known := self._storages.get(value.untyped_storage()._cdata)) is None:
                continue
            parameter, rows = self._rows[known[1]]
            alone = args and value is args[0] and not list(_tensors((args[1:], kwargs)))
            if function is torch.ops.aten._to_copy.default and alone and _same_numbers(value, kwargs):
                copied = known[1]
            elif function in _BY_ENTRY and alone and value.shape == parameter.shape:
                function(rows, *args[1:], **kwargs)
            elif function not in _SAFE:
                raise TouchedAgainError(str(function))
        result = function(*args, **kwargs)
        if copied is not None:
            storage = result.untyped_storage()
            self._storages[storage._cdata] = (storage, copied)
        return result


_SAFE = frozenset({torch.ops.aten.detach.default, torch.ops.aten.alias.default, torch.ops.aten.view.default})
"""Functions that return the same numbers in the same memory: what is done with the result is seen."""
_BY_ENTRY = frozenset(
    {
        torch.ops.aten.zero_.default,
        torch.ops.aten.fill_.Scalar,
        torch.ops.aten.mul_.Scalar,
        torch.ops.aten.div_.Scalar,
        torch.ops.aten.mul_.Tensor,  # with a number in place of the tensor
        torch.ops.aten.div_.Tensor,
    }
)
"""Functions that change each number alone, and all in the same way."""


def _same_numbers(value: Tensor, options: Mapping[str, Any]) -> bool:
    """Whether a copy with these options differs from the tensor in its memory format alone."""
    dtype, device = options.get("dtype"), options.get("device")
    return dtype in (None, value.dtype) and device in (None, value.device)


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


class _Watched(TorchDispatchMode):
    def __init__(self, rows: OwnRows) -> None:
        super().__init__()
        self._own = rows

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._own.call(func, args, kwargs or {})


@contextmanager
def cut_while_built() -> Iterator[OwnRows]:
    """Cut the weights of each module that becomes a part of another one, until the context ends.

    Raises `TouchedAgainError` if a constructor does more with the weights of its parts than to fill or scale them.
    """
    rows = OwnRows()

    def cut(owner: nn.Module, name: str, part: Any) -> None:
        if isinstance(part, nn.Module):
            rows.cut(part)

    handle = hooks.register_module_module_registration_hook(cut)
    try:
        with _Watched(rows):
            yield rows
    finally:
        handle.remove()


def moved(network: nn.Module, to: Callable[[Tensor], Tensor]) -> nn.Module:
    """Apply `to` to the tensors of a network that are not on the meta device."""
    return network._apply(lambda tensor: tensor if tensor.is_meta else to(tensor))
