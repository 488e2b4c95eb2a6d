"""Molecules around a part: is the part in each of them, and are they valid?

Held-out molecules of a run's data are cut at a random single bond outside of rings. The larger piece, with its
positions, is a part around which the run draws a molecule. By RDKit: the share of samples that contain the part (its
elements, charges, bonds and, to 0.001 Angstrom, its positions), that are valid and one connected piece, and whose
positions can be those of their molecule, beside the same of samples without a part; and seconds for a hundred.

    python tests/benchmarks/fragments.py RUN [--n 200] [--attach] [--method mmps] [--steps 50] [--solver ddpm]
                                             [--json FILE]

With `--attach`, the atom at the cut alone may bind to new atoms. `faults` counts the samples around parts that are not
valid: because an atom of the part, or a new atom, has too many bonds, or because of something else.
"""

import argparse
import json
import re
import tempfile
import time
from pathlib import Path

import numpy
from rdkit import Chem

import diffcore as dc
from diffcore.plugins.building import part_of
from diffcore.runs.measurements import default_method
from diffcore.sampling.inverse.editing import inpainting
from diffcore.states.state import concatenate
from diffcore_molecule.chemistry.molecules import Molecule, to_rdkit
from diffcore_molecule.output.records import record


def pieces(molecule: Molecule, random: numpy.random.Generator) -> tuple[Molecule, int] | None:
    """The larger piece of a molecule that is cut at a random bond, and its atom at the cut; None without such bonds."""
    mol = to_rdkit(molecule)
    Chem.FastFindRings(mol)
    cuts = [b for b in mol.GetBonds() if not b.IsInRing() and b.GetBondType() == Chem.BondType.SINGLE]
    if not cuts:
        return None
    bond = cuts[random.integers(len(cuts))]
    split = Chem.RWMol(mol)
    split.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
    kept = numpy.array(max(Chem.GetMolFrags(split), key=len))
    ends = {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}
    part = Molecule(
        molecule.numbers[kept], molecule.charges[kept], molecule.bonds[kept][:, kept], molecule.positions[kept]
    )
    return part, next(i for i, atom in enumerate(kept.tolist()) if atom in ends)


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


def shares(samples: list[Molecule], hydrogens: bool, parts: list[Molecule] | None = None) -> dict[str, float]:
    """The figures of samples, of their parts where there are any."""
    records = [record(sample, hydrogens) for sample in samples]
    found = {
        "valid": numpy.mean([each.valid for each in records]),
        "plausible": numpy.mean([each.valid and not each.geometry for each in records]),
        "different": len({each.smiles for each in records if each.valid}) / len(records),
    }
    if parts is not None:
        found["contained"] = numpy.mean([contains(*pair) for pair in zip(samples, parts, strict=True)])
    return {name: round(float(value), 3) for name, value in found.items()}


def main() -> None:
    """Cut, draw and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--attach", action="store_true", help="new atoms bind to the atom at the cut alone")
    parser.add_argument("--method", help="by default that of the run")
    parser.add_argument("--resamplings", type=int, default=10)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--solver")
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--json", help="write the figures there")
    options = parser.parse_args()
    run = dc.load(options.run, trust=options.trust)
    codec, random = run.model.codec, numpy.random.default_rng(0)
    held_out = run.data.held_out
    encoded = codec.encode(held_out[: 3 * options.n])
    molecules = codec.decode(encoded.state, encoded.mask)
    cut = [found for molecule in molecules if (found := pieces(molecule, random)) is not None][: options.n]
    parts = [part for part, _ in cut]
    hydrogens = codec.facts.hydrogens
    with tempfile.TemporaryDirectory() as folder:
        reader, read = part_of(run.model.modality, "reader", codec), []
        for index, (part, cut_at) in enumerate(cut):
            Chem.MolToMolFile(to_rdkit(part, hydrogens), f"{folder}/{index}.mol", kekulize=False)
            attach = [cut_at + 1] if options.attach else None
            edit = reader.read_around(Path(folder, f"{index}.mol"), (), attach)
            read.append((edit.values, edit.known))
    values, known = (concatenate(list(each)) for each in zip(*read, strict=True))
    method = options.method or default_method(run.model)
    constraint = inpainting(values, known, codec.space, method, resamplings=options.resamplings)
    start = time.perf_counter()
    drawn = run.sample(len(parts), constraint=constraint, steps=options.steps, solver=options.solver).decoded
    seconds = time.perf_counter() - start
    results = {
        "around parts": shares(drawn, hydrogens, parts) | {"seconds for 100": round(100 * seconds / len(parts), 1)},
        "without parts": shares(run.sample(len(parts), steps=options.steps).decoded, hydrogens),
        "held out": shares(molecules[: len(parts)], hydrogens),
    }
    for name, figures in results.items():
        print(f"{name:14}", *(f"{key} {value:g}" for key, value in figures.items()), sep="  ")
    print("faults around parts:", faults(drawn, parts, hydrogens))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
