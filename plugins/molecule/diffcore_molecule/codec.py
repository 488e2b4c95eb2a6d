"""The codec of molecules: encodes them as states of zero mean, and decodes states."""

from collections.abc import Mapping

import numpy
import torch
from rdkit import Chem
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import Condition, ScalarCondition
from diffcore.denoising.sizes import Sizes
from diffcore.plugins.data import Encoded
from diffcore.plugins.text import text_conditions, text_values
from diffcore.states.categories import CategoricalField, Categories, one_hot
from diffcore.states.noise import Draws
from diffcore.states.placement import to_device
from diffcore.states.spaces import Euclidean, Mask, Product, Whole, ZeroCentred
from diffcore.states.state import State
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.data.known_parts import draw_known
from diffcore_molecule.fields import CategoricalPairs
from diffcore_molecule.options import MoleculeFacts

MOLECULE, PROPERTIES = "molecule", "properties"
"""The sides of joint states; the second one is also the name of its field."""


class MoleculeCodec:
    """Represents a molecule of up to N atoms as a state of four fields:

    * `positions` `[N, 3]`: (position - mean over the atoms) / `position_std`; the noise has no centre of mass either;
    * `atoms` `[N, elements]`: a scaled one-hot code (`one_hot`) of the element, over the elements that occur;
    * `charges` `[N, 1]`: the formal charge as a number, one of those that occur;
    * `bonds` `[N, N, 4]`: a scaled one-hot code of no, single, double or triple bond; the noise is symmetric.

    With properties that are drawn together with the molecules, the state is joint, and has a fifth field:

    * `properties` `[k]`: (value - mean) / standard deviation of each.

    Absent atoms are masked. Decoded samples are lists of `Molecule`, which carry the values of the properties.
    """

    def __init__(self, facts: MoleculeFacts) -> None:
        self.facts = facts
        n = facts.max_atoms
        self._atoms, self._bonds = one_hot(facts.element_fractions, _ATOM_STD), one_hot(facts.bond_fractions, _BOND_STD)
        self._charges = Categories(tuple((_CHARGE_SCALE * charge,) for charge in facts.charges), facts.charge_fractions)
        symbols = tuple(map(Chem.GetPeriodicTable().GetElementSymbol, facts.elements))
        self.space = Product(
            {
                "positions": ZeroCentred((n, 3)),
                "atoms": CategoricalField((n, len(facts.elements)), self._atoms, symbols),
                "charges": CategoricalField((n, 1), self._charges, tuple(f"{charge:+d}" for charge in facts.charges)),
                "bonds": CategoricalPairs((n, n, len(facts.bond_fractions)), self._bonds),
            }
        )
        self.joint: dict[str, tuple[str, ...]] = {}
        if facts.joint:
            self.joint = {MOLECULE: tuple(self.space.parts), PROPERTIES: (PROPERTIES,)}
            self.space = Product({**self.space.parts, PROPERTIES: Whole(Euclidean((len(facts.joint),)))})
            self._means, self._stds = (
                torch.tensor([getattr(p, name) for p in facts.joint], dtype=torch.float64) for name in ("mean", "std")
            )
        scalars = [ScalarCondition(p.name, p.mean, p.std, p.quantiles, p.unit) for p in facts.properties]
        self.conditions: tuple[Condition, ...] = (*scalars, *text_conditions(facts.text))
        by_size = {p.name: p.by_size for p in facts.measured}
        self.sizes = Sizes(n, dict(zip(facts.sizes, facts.size_counts, strict=True)), by_size)
        self._index = torch.zeros(256, dtype=torch.int64)
        self._index[list(facts.elements)] = torch.arange(len(facts.elements))

    @property
    def std(self) -> dict[str, float]:
        """The standard deviations of those fields of encoded data whose standard deviation is not close to 1."""
        charges, fractions = (torch.tensor(values) for values in (self.facts.charges, self.facts.charge_fractions))
        variance = (fractions * charges**2).sum() - (fractions * charges).sum() ** 2
        return {"charges": _CHARGE_SCALE * variance.item() ** 0.5, "bonds": _BOND_STD}

    @property
    def no_bond(self) -> Tensor:
        """The point of two atoms without a bond, `[4]`."""
        return self._bonds.encode(torch.tensor(0))

    def encode(self, examples: TensorDict, draws: Draws | None = None) -> Encoded:
        """Encode examples with the fields of `diffcore_molecule.data.datasets`; `draws` rotate them randomly."""
        n, device = self.facts.max_atoms, examples["numbers"].device
        numbers = examples["numbers"].long()
        mask = numbers > 0
        positions = examples["positions"] / self.facts.position_std
        if draws is not None:
            positions = positions @ random_rotations(draws)
        state = TensorDict(
            {
                "positions": positions,
                "atoms": self._atoms.encode(to_device(self._index, device)[numbers]),
                "charges": _CHARGE_SCALE * examples["charges"].float()[..., None],
                "bonds": self._bonds.encode(examples["bonds"].long()),
                **({PROPERTIES: self.encoded_properties(examples["properties"])} if self.joint else {}),
            },
            batch_size=examples.batch_size,
        )
        assert numbers.shape[1] == n
        names = [each.name for each in self.facts.properties]
        values = dict(zip(names, examples["properties"].unbind(1), strict=True)) if names else {}
        conditions = {**values, **text_values(self.conditions, examples, draws)}
        return Encoded(self.space.project(state, mask), conditions, mask)

    def encoded_properties(self, values: Tensor) -> Tensor:
        """The field of the values `[B, k]` of the properties; zero, their mean, where there is none."""
        mean, std = (to_device(each, values.device) for each in (self._means, self._stds))
        return ((values.double() - mean) / std).float().nan_to_num()

    def decoded_properties(self, field: Tensor) -> Tensor:
        """The values `[B, k]` of the properties, float64."""
        return field.double().cpu() * self._stds + self._means

    def about_sizes(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of the properties, if they are given, on which the number of atoms depends."""
        if PROPERTIES not in given:
            return {}
        names = [each.name for each in self.facts.joint]
        return dict(zip(names, self.decoded_properties(given[PROPERTIES]).unbind(1), strict=True))

    def draw_known(self, state: State, mask: Mask, draws: Draws) -> State:
        """What is known of molecules in training; see `diffcore_molecule.data.known_parts`."""
        assert isinstance(state, TensorDict)
        bonded = self._bonds.nearest(state["bonds"]) > 0
        return draw_known(state, bonded, mask, draws)

    def decode(self, state: State, mask: Mask = None) -> list[Molecule]:
        """The molecule nearest to each state: each entry becomes the nearest element, charge or bond order."""
        assert isinstance(state, TensorDict)
        if mask is None:
            mask = torch.ones(state["atoms"].shape[:2], dtype=torch.bool)
        numbers = torch.tensor(self.facts.elements)[self._atoms.nearest(state["atoms"].cpu())]
        charges = torch.tensor(self.facts.charges)[self._charges.nearest(state["charges"].cpu())]
        bonds = self._bonds.nearest(state["bonds"].cpu())
        bonds = bonds * ~torch.eye(bonds.shape[1], dtype=torch.bool)
        positions = state["positions"].cpu() * self.facts.position_std
        drawn = self.decoded_properties(state[PROPERTIES]).tolist() if self.joint else []
        names = [each.name for each in self.facts.joint]
        molecules = []
        for index, present in enumerate(mask.cpu()):
            atoms = present.nonzero()[:, 0]
            molecules.append(
                Molecule(
                    numbers=numbers[index, atoms].numpy().astype(numpy.uint8),
                    charges=charges[index, atoms].numpy().astype(numpy.int8),
                    bonds=bonds[index][atoms][:, atoms].numpy().astype(numpy.uint8),
                    positions=positions[index, atoms].numpy().astype(numpy.float32),
                    properties=dict(zip(names, drawn[index], strict=True)) if self.joint else {},
                )
            )
        return molecules


_ATOM_STD, _BOND_STD = 1.0, 0.05
"""Standard deviations of elements and bonds in the state, where that of positions is 1.

A field of small standard deviation is decided late in sampling. So elements are decided early, together with the rough
geometry, and bonds last, when the positions of the atoms determine them. The figures of molecules in docs/ compare
other values.
"""

_CHARGE_SCALE = 0.2
"""The distance between the charges 0 and 1 in the state: about that between a single and a double bond."""


def random_rotations(draws: Draws) -> Tensor:
    """Rotation matrices `[B, 3, 3]`, uniform over SO(3), from random unit quaternions (Shoemake 1992)."""
    like = torch.empty(len(draws.samples), 4, device=draws.samples.device)
    w, x, y, z = torch.nn.functional.normalize(draws.normal("rotation", like), dim=1).unbind(1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
