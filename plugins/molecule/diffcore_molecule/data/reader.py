"""Reads a part of a molecule from a file: atoms that samples shall contain, and the bonds between them."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy
import torch
from rdkit import Chem
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.plugins.data import Encoded
from diffcore.plugins.output import Edit, Given, Side
from diffcore.states.spaces import Mask
from diffcore.states.state import State, concatenate, fields, named
from diffcore_molecule.chemistry.matching import matched
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.chemistry.reading import molecule_of_mol2, molecule_of_molfile
from diffcore_molecule.codec import MOLECULE, PROPERTIES, MoleculeCodec
from diffcore_molecule.data.files import SDF_ENDINGS
from diffcore_molecule.data.graphs import read_graphs, with_stereo, with_zeros
from diffcore_molecule.data.part import Part, PartCodec, around, joined, part_of
from diffcore_molecule.data.record_texts import mol2_records, sdf_records
from diffcore_molecule.data.samples import read_molecules
from diffcore_molecule.data.tables import read_values
from diffcore_molecule.data.text import lines_of, opened

NEAREST = 0.5
"""Atoms of different records of a part that are nearer than this, in Angstrom, are in the same place."""


class MoleculeReader:
    """Reads files as states of a codec: one record of an SDF or MOL2 file, or a molfile, with 3D coordinates.

    Hydrogens are read if the model has them as atoms, and only those that the file has: a part of a molecule is not
    completed to a molecule.
    """

    endings = (*SDF_ENDINGS, ".xyz", ".xyz.gz")

    def __init__(self, codec: MoleculeCodec) -> None:
        self.codec = codec

    def read_samples(self, path: Path) -> list[Molecule]:
        """The molecules of an SDF, MOL2 or XYZ file, also those that are not valid; see `read_molecules`."""
        if not path.name.lower().endswith(self.endings):
            listed = ", ".join(ending for ending in self.endings if not ending.endswith(".gz"))
            raise UserError(f"{path}: a file of molecules with positions must end in {listed}, also with .gz")
        return read_molecules(path, self.codec.facts.hydrogens)

    def read_part(self, path: Path) -> tuple[State, State]:
        """A state `[1, ...]` whose first atoms are those of the file and the others zero, and which entries are known.

        Raises `UserError` if the file cannot be read, or if the model has no such molecules.
        """
        part = self._part(path).molecule
        state = self._encoded(part).state
        return state, _known(state, len(part))

    def read_around(self, path: Path, free: Sequence[int] = (), attach: Sequence[int] | None = None) -> Edit:
        """The part of a file without the atoms `free`, and the codec that puts it into its place.

        It is also known that atoms that may not bind to others have no bond to them; `attach` are the atoms that may,
        see `diffcore_molecule.data.part.around`. Raises `UserError` as `read_part` does, and for atoms that do not
        exist.
        """
        part = around(self._part(path), free, attach)
        state = fields(self._encoded(part.molecule).state)
        n, known = len(part), _known(named(state), len(part))
        closed = torch.zeros(state["bonds"].shape[1], dtype=torch.bool)
        closed[:n] = torch.from_numpy(~part.open)
        others = torch.arange(len(closed)) >= n
        apart = (closed[:, None] & others[None]) | (others[:, None] & closed[None])
        known["bonds"][:, apart] = True
        bonds = torch.where(apart[..., None], self.codec.no_bond, state["bonds"])
        codec = PartCodec(self.codec, part.molecule)
        values = named({**state, "bonds": bonds})
        return Edit(values, known, codec, codec.recipe, pieces_of(part.molecule), partial(in_one_piece, self.codec))

    def read_given(self, name: str, path: Path) -> Given:
        """The graphs of a file of SMILES, whose positions are free; see `diffcore_molecule.data.graphs`."""
        assert name == "conformers"
        self._require_alone(path)
        molecules = read_graphs(path, self.codec.facts.hydrogens)
        encoded, known = [], []
        for line, molecule in molecules:
            graph = with_zeros(molecule)
            self._require_possible(f"{path}, line {line}:", graph)
            encoded.append(self._encoded(graph))
            known.append(_known(encoded[-1].state, len(graph)))
            known[-1]["positions"][:] = False
        masks = torch.cat([each.mask for each in encoded])  # type: ignore[misc]
        states, flags = concatenate([each.state for each in encoded]), concatenate(known)
        wanted = [molecule for _, molecule in molecules]
        return Given(states, flags, masks, "stereo", partial(with_stereo, self.codec, wanted))

    def read_sized(self, path: Path) -> tuple[State, Mask]:
        """A whole molecule as a state `[1, ...]` of zero mean, and its atoms, bool `[1, N]`.

        Raises `UserError` if the file cannot be read, or if the model has no such molecules.
        """
        encoded = self._encoded(self._molecule(path))
        return encoded.state, encoded.mask

    def read_side(self, name: str, path: Path) -> Side:
        """The molecules of a file, or the properties in a table with a column for each.

        Raises `UserError` for files that cannot be read, molecules that the model has not, and missing values.
        """
        if name == PROPERTIES:
            wanted = [item.name for item in self.codec.facts.joint]
            rows = read_values(path, wanted)
            values = torch.tensor(rows, dtype=torch.float64)
            return Side({PROPERTIES: self.codec.encoded_properties(values)})
        molecules = self.read_samples(path)
        if not molecules:
            raise UserError(f"{path} has no molecules")
        for number, molecule in enumerate(molecules, 1):
            self._require_possible(f"{path}, molecule {number}:", molecule)
        encoded = [self._encoded(molecule) for molecule in molecules]
        state = fields(concatenate([each.state for each in encoded]))
        masks = torch.cat([each.mask for each in encoded])  # type: ignore[misc]
        return Side({field: state[field] for field in self.codec.joint[MOLECULE]}, masks)

    def read_pair(self, first: Path, second: Path) -> tuple[State, State, Mask]:
        """Two molecules of as many atoms; the second is turned, and its atoms are put in order, to be near the first.

        See `diffcore_molecule.chemistry.matching.matched`. Raises `UserError` for different numbers of atoms.
        """
        start, end = self._molecule(first), self._molecule(second)
        if len(start) != len(end):
            raise UserError(
                f"`between`: {first} has {len(start)} atoms and {second} has {len(end)}; molecules between two need "
                "the same number in both"
            )
        encoded = self._encoded(start)
        return encoded.state, self._encoded(matched(end, start)).state, encoded.mask

    def _encoded(self, molecule: Molecule) -> Encoded:
        """The state whose first atoms are those of a molecule, and the others absent."""
        rest = self.codec.facts.max_atoms - len(molecule)
        arrays = {
            "numbers": numpy.pad(molecule.numbers, (0, rest)),
            "charges": numpy.pad(molecule.charges, (0, rest)),
            "bonds": numpy.pad(molecule.bonds, (0, rest)),
            "positions": numpy.pad(molecule.positions, ((0, rest), (0, 0))),
            "properties": numpy.full(len(self.codec.facts.measured), numpy.nan, numpy.float32),
        }
        examples = TensorDict({name: torch.from_numpy(array)[None] for name, array in arrays.items()}, batch_size=[1])
        return self.codec.encode(examples)

    def _require_alone(self, path: Path) -> None:
        """Raise `UserError` if a molecule is one side of the state only."""
        if self.codec.joint:
            raise UserError(
                f"{path} says nothing of the properties that this run draws together with molecules: give a whole "
                f"molecule with `given` {MOLECULE}, or use a run without `data.joint`"
            )

    def _molecule(self, path: Path) -> Molecule:
        self._require_alone(path)
        parts = self._parts(path)
        if len(parts) != 1:
            raise UserError(f"{path} has {len(parts)} molecules; give a file with one")
        if parts[0].attached:
            raise UserError(f"{path} has dummy atoms, so it is a part: give a whole molecule")
        return parts[0].molecule

    def _part(self, path: Path) -> Part:
        """The part in a file: its molecule, or its molecules together if they lie apart, such as two to be linked."""
        self._require_alone(path)
        parts = self._parts(path)
        if not parts:
            raise UserError(f"{path} has no molecules; give a file with a part of one")
        for number, (first, second) in enumerate(pairwise(parts), 1):
            if cdist(first.molecule.positions, second.molecule.positions).min() < NEAREST:
                raise UserError(
                    f"{path} has {len(parts)} molecules, and atoms of number {number} and {number + 1} are in the "
                    "same place; give a file with one, or with pieces that lie apart"
                )
        whole = joined(parts)
        self._require_possible(path, whole.molecule)
        return whole

    def _parts(self, path: Path) -> list[Part]:
        """The molecules in a file, each of which the model could have a part of."""
        if not path.name.lower().endswith(SDF_ENDINGS):
            listed = ", ".join(ending for ending in SDF_ENDINGS if not ending.endswith(".gz"))
            raise UserError(f"{path}: a file with a part of a molecule must end in {listed}, also with .gz")
        mol2 = path.name.lower().removesuffix(".gz").endswith(".mol2")
        with opened(path) as (text, _):
            records = [record for _, record in (mol2_records if mol2 else sdf_records)(lines_of(text))]
        if len(records) > self.codec.facts.max_atoms:
            raise UserError(f"{path} has {len(records)} molecules; give a file with one")
        parts = []
        for record in records:
            try:
                if record is None:
                    raise ValueError("a record that is too long")
                molecule = (molecule_of_mol2 if mol2 else molecule_of_molfile)(record)
                if not molecule.GetNumConformers() or not molecule.GetConformer().Is3D():
                    raise ValueError("no 3D coordinates")
                parts.append(part_of(molecule, self.codec.facts.hydrogens))
            except ValueError as error:
                raise UserError(f"{path} cannot be used: {error}") from None
            if not len(parts[-1]):
                raise UserError(f"{path} cannot be used: a molecule of dummy atoms alone")
            self._require_possible(path, parts[-1].molecule)
        return parts

    def _require_possible(self, path: Path | str, part: Molecule) -> None:
        """Raise `UserError` for elements and charges that the model does not have, and for too many atoms."""
        facts = self.codec.facts
        if len(part) > facts.max_atoms:
            raise UserError(f"{path} has {len(part)} atoms; molecules of this model have at most {facts.max_atoms}")
        table = Chem.GetPeriodicTable()
        for number in part.numbers.tolist():
            if number not in facts.elements:
                known = ", ".join(map(table.GetElementSymbol, facts.elements))
                raise UserError(f"{path} has {table.GetElementSymbol(number)}; molecules of this model have {known}")
        for charge in part.charges.tolist():
            if charge not in facts.charges:
                known = ", ".join(f"{value:+d}" for value in facts.charges)
                raise UserError(f"{path} has an atom of charge {charge:+d}; atoms of this model have {known}")


def pieces_of(molecule: Molecule) -> int:
    """The number of pieces that are not joined by bonds."""
    return int(connected_components(molecule.bonds > 0, directed=False)[0])


def in_one_piece(codec: MoleculeCodec, states: State, mask: Mask, rows: Sequence[int]) -> tuple[State, list[bool]]:
    """The states, and whether the molecule of each is in one piece."""
    return states, [pieces_of(molecule) == 1 for molecule in codec.decode(states, mask)]


def _known(state: State, n: int) -> TensorDict:
    """True for the entries of the first `n` atoms, and of the pairs of them."""
    known = {name: torch.zeros_like(field, dtype=torch.bool) for name, field in fields(state).items()}
    for name, flag in known.items():
        if name == "bonds":
            flag[:, :n, :n] = True
        else:
            flag[:, :n] = True
    return named(known)
