"""Which parts of molecules are known in training, so that a network learns to draw the rest."""

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.states.noise import Draws
from diffcore.states.spaces import Mask

_OF_ATOMS, _PLACES = 0.7, 0.9
"""Of some atoms everything is known in 70 % of the molecules, of all atoms everything but their places in 20 %, and of
all atoms some of the fields in the other 10 %."""
_COMPACT = 0.7
"""The share of parts whose atoms lie together; atoms of the others are anywhere."""


def draw_known(state: TensorDict, bonded: Tensor, mask: Mask, draws: Draws) -> TensorDict:
    """The entries that are known of each molecule, booleans of the form of the state.

    * `bonded`: which atoms have a bond, bool `[B, N, N]`.

    Of n atoms, k are known, where k is any number from 1 to n - 1 with the same probability: those nearest to an atom,
    or all but those nearest to an atom, or any. So a molecule grows from a part, two parts are linked, and a ring
    between parts is replaced. Of known atoms without a bond to unknown ones, it may also be known that they have none:
    in a third of the molecules for all of them, and in another third for some.
    """
    batch, n = bonded.shape[:2]
    there = torch.ones(batch, n, dtype=torch.bool, device=bonded.device) if mask is None else mask
    kind, compact, inverted, amount, closing, share = draws.uniform("kind", 6).unbind(1)
    u = draws.uniform("atoms", 3 * n).unflatten(1, (3, n))
    count = there.sum(1)
    sizes = 1 + (amount * (count - 1)).floor()
    first = u[:, 0].masked_fill(~there, -1).argmax(1)
    positions = state["positions"]
    distance = (positions - positions[torch.arange(batch, device=first.device), first][:, None]).norm(dim=2)
    order = torch.where((compact < _COMPACT)[:, None], distance, u[:, 1]).masked_fill(~there, torch.inf)
    inner = order.argsort(1).argsort(1) < torch.where(inverted < 0.5, sizes, count - sizes)[:, None]
    part = torch.where((inverted < 0.5)[:, None], inner, ~inner) & there & (count > 1)[:, None]

    pairs = part[:, :, None] & part[:, None]
    unknown = there & ~part
    joined = (bonded & unknown[:, None]).any(2)
    shares = torch.where(closing < 1 / 3, 0.0, torch.where(closing < 2 / 3, 1.0, share))
    closed = part & ~joined & (u[:, 2] < shares[:, None])
    apart = closed[:, :, None] & unknown[:, None]
    of_atoms = {"positions": part, "atoms": part, "charges": part, "bonds": pairs | apart | apart.transpose(1, 2)}

    coins = draws.uniform("fields", 4)
    some = (coins < 0.5) & (coins > coins.amin(1, keepdim=True))
    whole = {}
    for column, name in enumerate(of_atoms):
        of_all = there[:, :, None] & there[:, None] if name == "bonds" else there
        chosen = torch.where(kind < _PLACES, name != "positions", some[:, column])
        whole[name] = of_all & chosen.reshape(-1, *[1] * (of_all.ndim - 1))
    parts = kind < _OF_ATOMS
    found = {
        name: torch.where(parts.reshape(-1, *[1] * (own.ndim - 1)), own, whole[name])[..., None].expand_as(state[name])
        for name, own in of_atoms.items()
    }
    return TensorDict(found, batch_size=[batch])
