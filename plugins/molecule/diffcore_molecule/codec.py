"""Molecules to states of zero mean, and back."""

import numpy
import torch
from rdkit import Chem
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import ScalarCondition
from diffcore.denoising.sizes import Sizes
from diffcore.plugins.data import Encoded
from diffcore.states.categories import Categories, one_hot
from diffcore.states.spaces import Mask, Product, ZeroCentred
from diffcore.states.state import State
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.fields import OneOf, PairsOneOf
from diffcore_molecule.options import MoleculeFacts


class MoleculeCodec:
    """A molecule of up to N atoms is diffused as four fields together:

    * `positions` `[N, 3]`: places about their mean over `position_std`; noise has no centre of mass;
    * `atoms` `[N, elements]`: the element, one of those that occur, as a point of its own (`one_hot`);
    * `charges` `[N, 1]`: the formal charge, one of those that occur, as a number;
    * `bonds` `[N, N, 4]`: no, a single, a double or a triple bond, as points; noise is symmetric.

    Atoms that a molecule lacks are masked. Samples are lists of `Molecule`.
    """

    def __init__(self, facts: MoleculeFacts) -> None:
        self.facts = facts
        n = facts.max_atoms
        self._atoms, self._bonds = one_hot(facts.element_shares, _ATOMS), one_hot(facts.bond_shares, _BONDS)
        self._charges = Categories(tuple((_CHARGE_SCALE * charge,) for charge in facts.charges), facts.charge_shares)
        symbols = tuple(map(Chem.GetPeriodicTable().GetElementSymbol, facts.elements))
        self.space = Product(
            {
                "positions": ZeroCentred((n, 3)),
                "atoms": OneOf((n, len(facts.elements)), self._atoms, symbols),
                "charges": OneOf((n, 1), self._charges, tuple(f"{charge:+d}" for charge in facts.charges)),
                "bonds": PairsOneOf((n, n, len(facts.bond_shares)), self._bonds),
            }
        )
        self.conditions = tuple(ScalarCondition(p.name, p.mean, p.std, p.quantiles, p.unit) for p in facts.properties)
        about = {p.name: p.by_size for p in facts.properties}
        self.sizes = Sizes(n, dict(zip(facts.sizes, facts.size_counts, strict=True)), about)
        self._index = torch.zeros(256, dtype=torch.int64)
        self._index[list(facts.elements)] = torch.arange(len(facts.elements))

    @property
    def std(self) -> dict[str, float]:
        """The standard deviation of each field of encoded data that is not near 1."""
        charges, shares = (torch.tensor(values) for values in (self.facts.charges, self.facts.charge_shares))
        variance = (shares * charges**2).sum() - (shares * charges).sum() ** 2
        return {"charges": _CHARGE_SCALE * variance.item() ** 0.5, "bonds": _BONDS}

    def encode(self, examples: TensorDict, generator: torch.Generator | None = None) -> Encoded:
        """Examples as `diffcore_molecule.data.datasets` has them; with a generator each is turned at random."""
        n, device = self.facts.max_atoms, examples["numbers"].device
        numbers = examples["numbers"].long()
        mask = numbers > 0
        positions = examples["positions"] / self.facts.position_std
        if generator is not None:
            positions = positions @ random_rotations(len(positions), generator).to(device)
        state = TensorDict(
            {
                "positions": positions,
                "atoms": self._atoms.encode(self._index.to(device)[numbers]),
                "charges": _CHARGE_SCALE * examples["charges"].float()[..., None],
                "bonds": self._bonds.encode(examples["bonds"].long()),
            },
            batch_size=examples.batch_size,
        )
        assert numbers.shape[1] == n
        values = examples["properties"].unbind(1) if self.conditions else ()
        conditions = {c.name: value for c, value in zip(self.conditions, values, strict=True)}
        return Encoded(self.space.project(state, mask), conditions, mask)

    def decode(self, state: State, mask: Mask = None) -> list[Molecule]:
        """The nearest molecule of each state: nearest element, charge and order of bond."""
        assert isinstance(state, TensorDict)
        if mask is None:
            mask = torch.ones(state["atoms"].shape[:2], dtype=torch.bool)
        numbers = torch.tensor(self.facts.elements)[self._atoms.nearest(state["atoms"].cpu())]
        charges = torch.tensor(self.facts.charges)[self._charges.nearest(state["charges"].cpu())]
        bonds = self._bonds.nearest(state["bonds"].cpu())
        bonds = bonds * ~torch.eye(bonds.shape[1], dtype=torch.bool)
        positions = state["positions"].cpu() * self.facts.position_std
        molecules = []
        for index, present in enumerate(mask.cpu()):
            kept = present.nonzero()[:, 0]
            molecules.append(
                Molecule(
                    numbers=numbers[index, kept].numpy().astype(numpy.uint8),
                    charges=charges[index, kept].numpy().astype(numpy.int8),
                    bonds=bonds[index][kept][:, kept].numpy().astype(numpy.uint8),
                    positions=positions[index, kept].numpy().astype(numpy.float32),
                )
            )
        return molecules


_ATOMS, _BONDS = 1.0, 0.05
"""Standard deviations of elements and bonds in the state, where places have 1.

So elements are settled first, with the rough geometry, and bonds last, when the places of atoms say which they are:
docs/metrics.md compares values.
"""

_CHARGE_SCALE = 0.2
"""How far apart charges of 0 and 1 are in the state: about as far as single bonds and double ones."""


def random_rotations(n: int, generator: torch.Generator) -> Tensor:
    """`[n, 3, 3]` rotations, uniform over SO(3): those of random unit quaternions (Shoemake 1992)."""
    w, x, y, z = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1).unbind(1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
