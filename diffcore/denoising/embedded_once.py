"""Embeddings of conditions that are computed once while samples are drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from diffcore.denoising.inputs import Embedded

_MOST = 8
"""The number of values of a condition whose embeddings are kept; guidance passes few different ones in turn."""

_Kept = dict[nn.Module, list[tuple[Tensor, Tensor | Embedded]]]

_KEPT: ContextVar[_Kept | None] = ContextVar("embeddings", default=None)


@contextmanager
def embedded_once() -> Iterator[None]:
    """Within this context, values of a condition that are passed again are not embedded again.

    The conditions of samples are the same at every level of their trajectories. Whole numbers, such as the ids of
    texts, are also embedded once for all samples that have the same. The embeddings have no gradient, and they are
    dropped at the end of the context. Tensors are compared by identity, so neither they nor the weights may be changed
    in place meanwhile.
    """
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def embedded(embedding: nn.Module, value: Tensor) -> Tensor | Embedded:
    """The result of `embedding` for the values `[B, ...]` of a condition, kept within `embedded_once`."""
    kept = _KEPT.get()
    if kept is None or embedding.training:
        return embedding(value)  # type: ignore[no-any-return]
    known = kept.setdefault(embedding, [])
    for before, result in known:
        if before is value:
            return result
    with torch.no_grad():
        result = embedding(value) if value.is_floating_point() else _distinct(embedding, value)
    known.append((value, result))
    del known[:-_MOST]
    return result


def _distinct(embedding: nn.Module, value: Tensor) -> Tensor | Embedded:
    """The result for each distinct value, repeated for all that are equal to it."""
    different, place = value.unique(dim=0, return_inverse=True)
    result = embedding(different)
    return result.rows(place) if isinstance(result, Embedded) else result[place]
