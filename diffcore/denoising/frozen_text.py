"""A text network that is not trained: hidden states of texts, which are kept for the texts of the training examples."""

import logging
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from diffcore.denoising.bert import Bert
from diffcore.denoising.text import cut_to_longest
from diffcore.errors import UserError

logger = logging.getLogger(__name__)

MOST_BYTES = 2 * 2**30
"""The largest size of the hidden states that are kept; those of more texts are computed in each step."""
_AT_ONCE = 256
_TYPE = torch.float16
"""The type of all hidden states, whether they are kept or computed again, so both are the same."""


class Hidden(NamedTuple):
    """What a frozen network says of texts.

    * `pieces`: `[B, L, width]`, of each piece of a text.
    * `mask`: bool `[B, L]`, True where there is a piece.
    * `mean`: `[B, width]`, the mean over all positions of a text, with those that mark its beginning and its end.
    """

    pieces: Tensor
    mask: Tensor
    mean: Tensor


@dataclass(frozen=True)
class _Table:
    """Hidden states by text: those of the text with `keys[i]` are rows of `pieces` from `starts[i]` on.

    The key of a text is the sum of its ids times `factors`, modulo 2^64.
    """

    factors: Tensor
    keys: Tensor
    starts: Tensor
    pieces: Tensor
    means: Tensor

    def to(self, device: torch.device) -> "_Table":
        return _Table(*(each.to(device) for each in (self.factors, self.keys, self.starts, self.pieces, self.means)))


class FrozenText:
    """A frozen `Bert` on whatever device its inputs are, and its results for texts that are kept.

    It is no module: its weights are neither trained nor saved with a run, and copies of a network share it.

    * `begin`, `end`: the ids that are put before and after each text.
    """

    def __init__(self, network: Bert, begin: int, end: int) -> None:
        self._network, self._begin, self._end = network, begin, end
        self._table: _Table | None = None

    def __deepcopy__(self, memo: object) -> "FrozenText":
        return self

    @property
    def width(self) -> int:
        """The channels of the hidden states."""
        return self._network.width

    @torch.no_grad()
    def hidden(self, ids: Tensor) -> Hidden:
        """The hidden states of texts, ids `[B, L]` filled up with 0; on the CPU, L is cut to the longest text."""
        ids = cut_to_longest(ids)
        if self._network.words.weight.device != ids.device:
            self._network.to(ids.device)
        count = (ids > 0).sum(1, keepdim=True)
        whole = functional.pad(ids, (1, 1)).scatter(1, count + 1, self._end)
        whole[:, 0] = self._begin
        exists = torch.arange(whole.shape[1], device=ids.device) < count + 2
        states = self._network(whole, exists)
        mean = states.where(exists[..., None], 0.0).sum(1) / (count + 2)
        return Hidden(states[:, 1:-1].to(_TYPE).float(), ids > 0, mean.to(_TYPE).float())

    def keep(self, ids: Tensor) -> None:
        """Compute the hidden states of all distinct texts `[n, L]` once, and of the empty one, for `kept`."""
        texts = functional.pad(ids.flatten(0, -2), (0, 0, 1, 0)).long().unique(dim=0)
        counts = (texts > 0).sum(1)
        texts, counts = texts[counts.argsort(stable=True)], counts.sort().values
        size = (int(counts.sum()) + len(texts)) * self.width * _TYPE.itemsize
        if size > MOST_BYTES:
            logger.warning(
                f"the hidden states of {len(texts):,} texts would take {size / 2**30:.1f} GiB, so they are not kept, "
                "but computed in each step, which is slower"
            )
            return
        logger.info(f"encoding {len(texts):,} different texts, once")
        generator = torch.Generator().manual_seed(0)
        factors = 2 * torch.randint(-(2**62), 2**62, (texts.shape[1],), generator=generator) + 1
        keys = (texts * factors).sum(1)
        if len(keys.unique()) < len(keys):
            raise UserError("two texts have the same key of 64 bits, so they cannot be told apart")
        parts = [self.hidden(batch) for batch in texts.split(_AT_ONCE)]
        order = keys.argsort()
        self._table = _Table(
            factors,
            keys[order],
            (counts.cumsum(0) - counts)[order],
            torch.cat([*(part.pieces[part.mask] for part in parts), torch.zeros(1, self.width)]).to(_TYPE),
            torch.cat([part.mean.to(_TYPE) for part in parts])[order],
        )

    def kept(self, ids: Tensor) -> Hidden:
        """`hidden`, where it was computed by `keep`, without waiting for the device; nan for texts that were not."""
        if self._table is None:
            return self.hidden(ids)
        ids = cut_to_longest(ids)
        if self._table.keys.device != ids.device:
            self._table = self._table.to(ids.device)
        table = self._table
        key = (ids * table.factors[: ids.shape[1]]).sum(1)
        place = torch.searchsorted(table.keys, key).clamp(max=len(table.keys) - 1)
        mask = ids > 0
        rows = table.starts[place, None] + torch.arange(ids.shape[1], device=ids.device)
        pieces = table.pieces[rows.clamp(max=len(table.pieces) - 1)].float()
        known = (table.keys[place] == key)[:, None]
        mean = table.means[place].float().where(known, torch.nan)
        return Hidden(pieces.where(mask[..., None], 0.0).where(known[..., None], torch.nan), mask, mean)
