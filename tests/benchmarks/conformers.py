"""Conformers of held-out molecules: by a run, given the graph alone, and by RDKit's ETKDG.

Of each held-out molecule of a run's data, the SMILES with its stereochemistry is given, and the conformer of the data,
which is a minimum of DFT for QM9, is the reference. K conformers are drawn. By the deviation (RMSD) of the heavy atoms,
with symmetric atoms exchanged and rotated best, as in the papers on GEOM: `coverage` is the share of references that
have a conformer within the threshold, `matching` the mean deviation of the nearest conformer, and `precision` the mean
deviation of all conformers. `stereo` is the share of conformers with the stereochemistry that is asked for, before
others are drawn again; `plausible` the share with possible positions.

    python tests/benchmarks/conformers.py RUN [--n 100] [--each 2] [--steps 50] [--threshold 0.5] [--json FILE]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolAlign

import diffcore as dc
from diffcore.runs.measurements import given_by
from diffcore_molecule.chemistry.molecules import sanitised, to_rdkit
from diffcore_molecule.output.records import record


def by_etkdg(smiles: list[str], each: int, relaxed: bool = False) -> list[list[Chem.Mol]]:
    """Conformers of ETKDGv3 with hydrogens, which are then removed; an empty list where RDKit finds none.

    If distance geometry fails, RDKit begins with random coordinates. With `relaxed`, MMFF94 relaxes all atoms.
    """
    found = []
    for text in smiles:
        mol = Chem.AddHs(Chem.MolFromSmiles(text))
        numbers = [*AllChem.EmbedMultipleConfs(mol, each, randomSeed=0)]
        numbers = numbers or [*AllChem.EmbedMultipleConfs(mol, each, randomSeed=0, useRandomCoords=True)]
        if relaxed and numbers and AllChem.MMFFHasAllMoleculeParams(mol):
            AllChem.MMFFOptimizeMoleculeConfs(mol)
        plain = Chem.RemoveHs(mol)
        found.append([Chem.Mol(plain, confId=number) for number in numbers])
    return found


def figures(references: list[Chem.Mol], drawn: list[list[Chem.Mol]], threshold: float) -> dict[str, float]:
    """Coverage, matching and precision in Angstrom. Molecules without a conformer count as not covered."""
    deviations = [[_deviation(mol, ref) for mol in mols] for ref, mols in zip(references, drawn, strict=True)]
    nearest = numpy.array([min(each, default=numpy.inf) for each in deviations])
    every = numpy.concatenate([numpy.array(each) for each in deviations])
    finite = nearest[numpy.isfinite(nearest)]
    values = {
        "coverage": (nearest <= threshold).mean(),
        "matching": finite.mean(),
        "median": numpy.median(finite),
        "precision": every.mean(),
        "without": float((~numpy.isfinite(nearest)).sum()),
    }
    return {name: round(float(value), 3) for name, value in values.items()}


def _deviation(mol: Chem.Mol, reference: Chem.Mol) -> float:
    return rdMolAlign.GetBestRMS(Chem.Mol(mol), Chem.Mol(reference))


def main() -> None:
    """Draw and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--json", help="write the figures there")
    options = parser.parse_args()
    run = dc.load(options.run, trust=options.trust)
    codec = run.model.codec
    encoded = codec.encode(run.data.held_out[: options.n])
    references = [
        sanitised(to_rdkit(each, codec.facts.hydrogens)) for each in codec.decode(encoded.state, encoded.mask)
    ]
    references = [Chem.RemoveHs(each) for each in references if each is not None]
    smiles = [Chem.MolToSmiles(each) for each in references]
    results = {}
    for name, relaxed in (("ETKDG", False), ("ETKDG, MMFF94", True)):
        start = time.perf_counter()
        found = by_etkdg(smiles, options.each, relaxed)
        seconds = (time.perf_counter() - start) / (options.each * len(smiles))
        results[name] = figures(references, found, options.threshold) | {"seconds each": round(seconds, 4)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "held-out.smi")
        path.write_text("\n".join(smiles))
        constraint, count = given_by(run.model, "conformers", path, options.each)
    start = time.perf_counter()
    samples = run.sample(count, constraint=constraint, steps=options.steps)
    seconds = (time.perf_counter() - start) / count
    records = [record(each, codec.facts.hydrogens) for each in samples.decoded]
    drawn: dict[str, list[Chem.Mol]] = {each: [] for each in smiles}
    for each in records:
        if each.valid:
            drawn.setdefault(each.smiles, []).append(Chem.RemoveHs(sanitised(each.mol)))
    own = figures(references, [drawn[each] for each in smiles], options.threshold)
    plausible = numpy.mean([each.valid and not each.geometry for each in records])
    results["run"] = own | {"seconds each": round(seconds, 4), "plausible": round(float(plausible), 3)}
    for name, values in results.items():
        print(f"{name:14}", *(f"{key} {value:g}" for key, value in values.items()), sep="  ")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
