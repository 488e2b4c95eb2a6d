"""Molecules around a part: is the part in each of them, and are they valid?

Held-out molecules of a run's data are cut at random, and the run draws a molecule around what is left, at its place:

* `grow`: at a single bond outside of rings. The larger piece is left.
* `link`: at two such bonds, so that the linker between them is taken out, and two pieces are left. As with `diffcore
  sample --link`, a sample that is not in one piece is drawn again; a line says how many were drawn.
* `replace`: the atoms of a ring system that has substituents, all by single bonds, are taken out, and these are left.

By RDKit: the share of samples that contain the part (its elements, charges, bonds and, to 0.001 Angstrom, its
positions), that are valid and one connected piece, and whose positions can be those of their molecule; and seconds for
a hundred. `as it was` is the share of samples that are the molecule that was cut, without regard to stereochemistry.

    python tests/benchmarks/fragments.py RUN [--task link] [--n 200] [--attach] [--exact] [--free] [--method mmps]
                                             [--steps 50] [--solver ddpm] [--json FILE] [--sdf FILE]

With `--attach`, the files have dummy atoms where bonds were cut, so only the atoms at the cuts may bind to new ones.
With `--exact`, samples have as many atoms as the molecules that were cut; otherwise numbers are drawn. `faults` counts
the samples around parts that are not valid: because an atom of the part, or a new atom, has too many bonds, or because
of something else.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy
import torch
from rdkit import Chem

import diffcore as dc
from diffcore.plugins.building import part_of
from diffcore.runs.measurements import default_method
from diffcore.sampling.inverse.editing import Constraint, inpainting
from diffcore.states.state import concatenate
from diffcore_molecule.chemistry.molecules import Molecule, to_rdkit
from diffcore_molecule.output.records import record


@dataclass(frozen=True)
class Cut:
    """A molecule of which a part is left."""

    whole: Molecule
    left: numpy.ndarray
    """The atoms that are left, bool `[n]`."""

    @property
    def part(self) -> Molecule:
        """The atoms that are left, in their order."""
        whole, left = self.whole, self.left
        return Molecule(whole.numbers[left], whole.charges[left], whole.bonds[left][:, left], whole.positions[left])

    def file(self, hydrogens: bool, dummies: bool) -> str:
        """A molfile of the part. With `dummies`, a dummy atom stands for each atom beyond a bond that was cut."""
        edited = Chem.RWMol(to_rdkit(self.whole, hydrogens))
        beyond = (self.whole.bonds[:, self.left] > 0).any(1) & ~self.left if dummies else ~self.left & self.left
        for index in numpy.flatnonzero(beyond).tolist():
            edited.ReplaceAtom(index, Chem.Atom(0))
        for index in numpy.flatnonzero(~self.left & ~beyond)[::-1].tolist():
            edited.RemoveAtom(index)
        return Chem.MolToMolBlock(edited, kekulize=False)


def cut(molecule: Molecule, task: str, random: numpy.random.Generator) -> Cut | None:
    """A molecule that is cut at random for a task; None if it cannot be."""
    mol = to_rdkit(molecule)
    Chem.FastFindRings(mol)
    possible = list({"grow": _grown, "link": _linked, "replace": _replaced}[task](mol))
    if not possible:
        return None
    left = numpy.zeros(len(molecule), dtype=bool)
    left[sorted(possible[random.integers(len(possible))])] = True
    return Cut(molecule, left)


def _cuts(mol: Chem.Mol) -> list[Chem.Bond]:
    """The bonds that may be cut."""
    return [bond for bond in mol.GetBonds() if not bond.IsInRing() and bond.GetBondType() == Chem.BondType.SINGLE]


def _pieces(mol: Chem.Mol, *bonds: Chem.Bond) -> list[set[int]]:
    """The pieces of a molecule without these bonds."""
    split = Chem.RWMol(mol)
    for bond in bonds:
        split.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
    return [set(piece) for piece in Chem.GetMolFrags(split)]


def _grown(mol: Chem.Mol) -> Iterator[set[int]]:
    for bond in _cuts(mol):
        yield max(_pieces(mol, bond), key=len)


def _linked(mol: Chem.Mol) -> Iterator[set[int]]:
    """What is left without a piece between two others of at least two atoms each."""
    for bonds in combinations(_cuts(mol), 2):
        pieces = _pieces(mol, *bonds)
        ends = [{bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()} for bond in bonds]
        between = [piece for piece in pieces if all(piece & end for end in ends)]
        others = [piece for piece in pieces if piece not in between]
        if len(between) == 1 and min(map(len, others)) > 1:
            yield set.union(*others)


def _replaced(mol: Chem.Mol) -> Iterator[set[int]]:
    """What is left, of at least two atoms, without a ring system that only single bonds lead to."""
    systems: list[set[int]] = []
    for ring in map(set, mol.GetRingInfo().AtomRings()):
        joined = [system for system in systems if system & ring]
        systems = [system for system in systems if system not in joined] + [set.union(ring, *joined)]
    for system in systems:
        left = set(range(mol.GetNumAtoms())) - system
        edges = [b for b in mol.GetBonds() if len({b.GetBeginAtomIdx(), b.GetEndAtomIdx()} & system) == 1]
        if len(left) > 1 and all(bond.GetBondType() == Chem.BondType.SINGLE for bond in edges):
            yield left


def faults(samples: list[Molecule], parts: list[Molecule], hydrogens: bool) -> dict[str, int]:
    """Why samples are not valid, counted."""
    found = {"valence of the part": 0, "valence of new atoms": 0, "pieces": 0, "others": 0}
    for sample, part in zip(samples, parts, strict=True):
        fault = record(sample, hydrogens).fault
        atom = re.search(r"valence: atom (\d+)", fault)
        if atom:
            found["valence of the part" if int(atom[1]) <= len(part) else "valence of new atoms"] += 1
        elif fault:
            found["pieces" if fault.endswith("pieces") else "others"] += 1
    return found


def contains(found: Molecule, part: Molecule) -> bool:
    """Whether the first atoms of a sample are those of the part."""
    n = len(part)
    return (
        (found.numbers[:n] == part.numbers).all()
        and (found.charges[:n] == part.charges).all()
        and (found.bonds[:n, :n] == part.bonds).all()
        and abs(_centred(found.positions[:n]) - _centred(part.positions)).max() < 1e-3
    )


def _centred(positions: numpy.ndarray) -> numpy.ndarray:
    return positions - positions.mean(0)


def shares(samples: list[Molecule], hydrogens: bool, cuts: list[Cut] | None = None) -> dict[str, float]:
    """The figures of samples, of their parts where there are any."""
    records = [record(sample, hydrogens) for sample in samples]
    found = {
        "valid": numpy.mean([each.valid for each in records]),
        "plausible": numpy.mean([each.valid and not each.geometry for each in records]),
        "different": len({each.smiles for each in records if each.valid}) / len(records),
    }
    if cuts is not None:
        before = [_flat(record(each.whole, hydrogens).smiles) for each in cuts]
        now = [_flat(each.smiles) for each in records]
        found["contained"] = numpy.mean([contains(drawn, each.part) for drawn, each in zip(samples, cuts, strict=True)])
        found["as it was"] = numpy.mean([first == second for first, second in zip(before, now, strict=True)])
    return {name: round(float(value), 3) for name, value in found.items()}


def _flat(smiles: str) -> str:
    """The SMILES without stereochemistry; of one that is empty, which is no molecule, an empty one."""
    return Chem.CanonSmiles(smiles, useChiral=False) if smiles else ""


def constraint_of(run: dc.Run, cuts: list[Cut], link: bool, dummies: bool, exact: bool, **options: Any) -> Constraint:
    """What the samples around the parts must agree with, read from files as a user's is."""
    codec = run.model.codec
    reader, read = part_of(run.model.modality, "reader", codec), []
    with tempfile.TemporaryDirectory() as folder:
        for index, each in enumerate(cuts):
            path = Path(folder, f"{index}.mol")
            path.write_text(each.file(codec.facts.hydrogens, dummies))
            edit = reader.read_around(path, (), None)
            read.append((edit.values, edit.known))
            linked = edit.linked
    values, known = (concatenate(list(each)) for each in zip(*read, strict=True))
    constraint = inpainting(values, known, codec.space, **options)
    if link:
        constraint = replace(constraint, agreement="linked", settled=linked)
    if not exact:
        return constraint
    sizes = torch.tensor([len(each.whole) for each in cuts])
    return replace(constraint, mask=torch.arange(codec.facts.max_atoms) < sizes[:, None])


def main() -> None:
    """Cut, draw and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--task", choices=("grow", "link", "replace"), default="grow")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--attach", action="store_true", help="new atoms bind to the atoms at the cuts alone")
    parser.add_argument("--exact", action="store_true", help="as many atoms as before")
    parser.add_argument("--free", action="store_true", help="also draw as many samples without parts")
    parser.add_argument("--method", help="by default that of the run")
    parser.add_argument("--resamplings", type=int, default=10)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--solver")
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--json", help="write the figures there")
    parser.add_argument("--sdf", help="write the samples around parts there")
    options = parser.parse_args()
    run = dc.load(options.run, trust=options.trust)
    codec, random = run.model.codec, numpy.random.default_rng(0)
    encoded = codec.encode(run.data.held_out)
    molecules = codec.decode(encoded.state, encoded.mask)
    found = (cut(molecule, options.task, random) for molecule in molecules)
    cuts = list(islice((each for each in found if each is not None), options.n))
    hydrogens = codec.facts.hydrogens
    method = options.method or default_method(run.model)
    how = {"method": method, "resamplings": options.resamplings}
    constraint = constraint_of(run, cuts, options.task == "link", options.attach, options.exact, **how)
    start = time.perf_counter()
    drawn = run.sample(len(cuts), constraint=constraint, steps=options.steps, solver=options.solver).decoded
    seconds = time.perf_counter() - start
    results = {
        "around parts": shares(drawn, hydrogens, cuts) | {"seconds for 100": round(100 * seconds / len(cuts), 1)},
        "held out": shares([each.whole for each in cuts], hydrogens),
    }
    if options.free:
        results["without parts"] = shares(run.sample(len(cuts), steps=options.steps).decoded, hydrogens)
    mean = numpy.mean([len(each.whole) - len(each.part) for each in cuts])
    print(f"{len(cuts)} molecules, {mean:.1f} atoms each are cut out")
    for name, figures in results.items():
        print(f"{name:14}", *(f"{key} {value:g}" for key, value in figures.items()), sep="  ")
    print("faults around parts:", faults(drawn, [each.part for each in cuts], hydrogens))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))
    if options.sdf:
        with Chem.SDWriter(options.sdf) as file:
            file.SetKekulize(False)
            for sample, each in zip(drawn, cuts, strict=True):
                mol = record(sample, hydrogens).mol
                mol.SetIntProp("part", len(each.part))
                mol.SetProp("before", Chem.MolToSmiles(to_rdkit(each.whole, hydrogens)))
                file.write(mol)


if __name__ == "__main__":
    main()
