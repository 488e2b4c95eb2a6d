"""Make the embedded set: `python make_embedded.py dsgdb9nsd.xyz.tar.bz2` writes `diffcore_molecule/data/qm9_part.npz`.

A random 10,000 of QM9's molecules, places rounded to 0.01 Angstrom, with what takes long to compute: identities and the
default properties, for the RDKit at hand. The same file and RDKit give the same bytes.
"""

import sys
from pathlib import Path

import numpy
import rdkit

from diffcore_molecule.data import qm9
from diffcore_molecule.data.collection import Entry
from diffcore_molecule.data.datasets import EMBEDDED, STEP
from diffcore_molecule.data.store import measured, parsed
from diffcore_molecule.options import EmbeddedOptions

COUNT, SEED = 10_000, 0


def main(path: Path) -> None:
    """Read the official file, choose, round, measure, write."""
    texts = sorted(qm9.texts(path))
    chosen: list[Entry] = []
    for row in numpy.random.default_rng(SEED).permutation(len(texts)).tolist():
        ((number, _, found),) = qm9.entries([texts[row]])
        if isinstance(found, str):
            print(f"left out: gdb {number}: {found}")
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
        "bonds": numpy.ascontiguousarray(collection.bonds.T.astype(numpy.uint8)),  # like beside like packs better
        "positions": numpy.ascontiguousarray(rounded.T).view(numpy.uint8).reshape(3, -1, 2).transpose(2, 0, 1).copy(),
        "sources": molecules.sources.astype(numpy.int32),
        "identities": molecules.identities,
        "rdkit": numpy.array(rdkit.__version__),
    }
    arrays |= {f"property_{name}": column for name, column in zip(names, measured(molecules, names).T, strict=True)}
    EMBEDDED.parent.mkdir(exist_ok=True)
    numpy.savez_compressed(EMBEDDED, **arrays)
    print(f"{len(collection)} of {len(texts)} molecules, {EMBEDDED.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
