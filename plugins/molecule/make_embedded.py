"""Make the embedded set: `python make_embedded.py dsgdb9nsd.xyz.tar.bz2` writes `diffcore_molecule/data/qm9_part.npz`.

A random 10,000 of QM9's molecules, places rounded to 0.01 Angstrom. The same file gives the same bytes.
"""

import sys
from pathlib import Path

import numpy

from diffcore_molecule import qm9
from diffcore_molecule.collection import collect
from diffcore_molecule.datasets import EMBEDDED, STEP

COUNT, SEED = 10_000, 0


def main(path: Path) -> None:
    """Read the official file, choose, round, write."""
    texts = [text for _, text in qm9.texts(path)]
    chosen: dict[int, qm9.Molecule] = {}
    for row in numpy.random.default_rng(SEED).permutation(len(texts)).tolist():
        try:
            chosen[row] = qm9.molecule(qm9.parse(texts[row]))
        except ValueError as error:
            print(f"left out: record {row}: {error}")
        if len(chosen) == COUNT:
            break
    collection = collect(chosen[row] for row in sorted(chosen))
    rounded = numpy.rint(collection.positions / STEP).astype(numpy.int16)
    arrays = collection.arrays() | {
        "sizes": collection.sizes.astype(numpy.uint8),
        "bond_counts": collection.bond_counts.astype(numpy.uint8),
        "bonds": numpy.ascontiguousarray(collection.bonds.T.astype(numpy.uint8)),  # like beside like packs better
        "positions": numpy.ascontiguousarray(rounded.T).view(numpy.uint8).reshape(3, -1, 2).transpose(2, 0, 1).copy(),
    }
    EMBEDDED.parent.mkdir(exist_ok=True)
    numpy.savez_compressed(EMBEDDED, **arrays)
    print(f"{len(collection)} of {len(texts)} molecules, {EMBEDDED.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
