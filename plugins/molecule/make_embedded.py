"""Create the included data set: `python make_embedded.py dsgdb9nsd.xyz.tar.bz2` writes `data/qm9_part.npz`.

The file contains 10,000 random molecules of QM9, with positions rounded to 0.01 Angstrom, and values that take long to
compute: the identities and the default properties by the installed RDKit. The same input file and version of RDKit
give the same bytes.
"""

import sys
from pathlib import Path

import numpy
import rdkit

from diffcore_molecule.data import qm9
from diffcore_molecule.data.collection import Entry
from diffcore_molecule.data.datasets import EMBEDDED, STEP
from diffcore_molecule.data.store import parsed, property_values
from diffcore_molecule.options import EmbeddedOptions

COUNT, SEED = 10_000, 0


def main(path: Path) -> None:
    """Read the official file, draw molecules, round positions, compute properties, and write the result."""
    texts = sorted(qm9.texts(path))
    chosen: list[Entry] = []
    for row in numpy.random.default_rng(SEED).permutation(len(texts)).tolist():
        ((number, _, found),) = qm9.entries([texts[row]])
        if isinstance(found, str):
            print(f"gdb {number} is left out: {found}")
            continue
        chosen.append(found)
        if len(chosen) == COUNT:
            break
    molecules = parsed(chosen, [])
    collection = molecules.collection
    names = EmbeddedOptions().properties
    rounded = numpy.rint(collection.positions / STEP).astype("<i2")
    arrays = collection.arrays() | {
        "sizes": collection.sizes.astype(numpy.uint8),
        "bond_counts": collection.bond_counts.astype(numpy.uint8),
        "bonds": numpy.ascontiguousarray(
            collection.bonds.T.astype(numpy.uint8)
        ),  # similar values next to each other compress better
        "positions": numpy.ascontiguousarray(rounded.T).view(numpy.uint8).reshape(3, -1, 2).transpose(2, 0, 1).copy(),
        "sources": molecules.sources.astype(numpy.int32),
        "identities": molecules.identities,
        "rdkit": numpy.array(rdkit.__version__),
    }
    columns = property_values(molecules, names).T
    arrays |= {f"property_{name}": column for name, column in zip(names, columns, strict=True)}
    EMBEDDED.parent.mkdir(exist_ok=True)
    numpy.savez_compressed(EMBEDDED, **arrays)
    print(f"{len(collection)} of {len(texts)} molecules, {EMBEDDED.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
