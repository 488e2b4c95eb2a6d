"""Can a model learn the hand of its molecules? Trained on conformers of L-alanine, it should draw L-alanine alone.

    python tests/benchmarks/handedness.py [--steps 800] [--json FILE]

The conformers are made by ETKDG with different seeds and relaxed with MMFF94. Two models are trained on them: with the
option `reflections` of the equivariant denoiser, and without.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from rdkit import Chem
from rdkit.Chem import AllChem

import diffcore as dc
from diffcore_molecule.evaluation.metrics import right_handed, validated

L_ALANINE = "C[C@H](N)C(=O)O"  # its centre is S


def write_conformers(path: Path, count: int) -> None:
    """An SD file of conformers of L-alanine."""
    mol = Chem.AddHs(Chem.MolFromSmiles(L_ALANINE))
    found = AllChem.EmbedMultipleConfs(mol, count, randomSeed=0)
    AllChem.MMFFOptimizeMoleculeConfs(mol)
    with Chem.SDWriter(str(path)) as writer:
        for conformer in found:
            writer.write(mol, confId=conformer)


def measured(path: Path, folder: Path, options: argparse.Namespace, reflections: bool) -> dict[str, Any]:
    """What a model draws that was trained on the file."""
    run = dc.train(
        "molecule",
        data={"name": "sdf", "path": str(path), "properties": ()},
        denoiser={"reflections": reflections},
        train={"steps": options.steps, "evaluate": 0, "sample_every": 10 * options.steps},
        seed=options.seed,
        out=folder / f"reflections-{reflections}",
    )
    samples = run.sample(options.n, seed=options.seed).decoded
    mols = [mol for mol in (validated(sample, False) for sample in samples) if mol is not None]
    alanine = Chem.MolToSmiles(Chem.MolFromSmiles("CC(N)C(=O)O"))
    ours = [mol for mol in mols if Chem.MolToSmiles(mol, isomericSmiles=False) == alanine]
    return {
        "reflections": reflections,
        "samples": len(samples),
        "valid": len(mols),
        "alanine": len(ours),
        "L, of those with a hand": 1 - right_handed(ours),
    }


def main() -> None:
    """Train, measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--conformers", type=int, default=400)
    parser.add_argument("--n", type=int, default=200, help="samples of each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "alanine.sdf"
        write_conformers(path, options.conformers)
        rows = [measured(path, Path(folder), options, reflections) for reflections in (True, False)]
    for row in rows:
        print(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
