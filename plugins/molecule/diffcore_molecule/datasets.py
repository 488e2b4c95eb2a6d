"""The data sets: embedded, QM9's official file, and a user's own files.

The examples of all are molecules padded to the most atoms of the set, see `collection.padded`, with `properties`
`[n, P]` (NaN where undefined) and `identity` `[n]`, by which molecules are told apart.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy
import torch

from diffcore.data import Data
from diffcore.errors import UserError
from diffcore.progress import counter
from diffcore_molecule import properties
from diffcore_molecule.collection import Collection, facts_of, molecules_of, padded
from diffcore_molecule.molecules import identity, sanitised, to_rdkit
from diffcore_molecule.options import EmbeddedOptions

EMBEDDED = Path(__file__).parent / "data" / "qm9_part.npz"
STEP = 0.01
"""What embedded places are rounded to, Angstrom."""


def embedded(options: EmbeddedOptions) -> Data:
    """10,000 molecules of QM9, which come with the plugin: up to 9 atoms of C, N, O, F, and hydrogens."""
    with numpy.load(EMBEDDED, allow_pickle=False) as stored:
        arrays = dict(stored)
    low_high = arrays["positions"].transpose(1, 2, 0)  # the two bytes of each coordinate lie apart
    steps = numpy.ascontiguousarray(low_high).view(numpy.int16)[..., 0].T
    collection = Collection(
        **arrays | {"positions": steps.astype(numpy.float32) * numpy.float32(STEP), "bonds": arrays["bonds"].T}
    )
    identities, columns = described(collection, options.properties)
    train, held_out = split(identities, options.held_out, options.seed)
    return data(collection, identities, columns, options.properties, options.hydrogens, train, held_out)


def described(collection: Collection, names: Sequence[str]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Identities `[n]` and properties `[n, P]` of the molecules."""
    for name in names:
        properties.find(name)
    identities, columns = [], []
    with counter("measuring molecules", len(collection)) as more:
        for molecule in molecules_of(collection):
            known = sanitised(to_rdkit(molecule))
            identities.append(identity(known))
            columns.append(properties.measure(known, names))
            more(1)
    return numpy.array(identities, dtype=numpy.int64), numpy.array(columns, dtype=numpy.float32)


def split(identities: numpy.ndarray, share: float, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Rows to train on and rows to hold out. All conformers of a molecule are on the same side."""
    _, which = numpy.unique(identities, return_inverse=True)
    different = int(which.max()) + 1
    held = numpy.random.default_rng(seed).permutation(different) < round(share * different)
    return numpy.flatnonzero(~held[which]), numpy.flatnonzero(held[which])


def data(
    collection: Collection,
    identities: numpy.ndarray,
    columns: numpy.ndarray,
    names: Sequence[str],
    hydrogens: bool,
    train: numpy.ndarray,
    held_out: numpy.ndarray,
    notes: Sequence[str] = (),
) -> Data:
    """A `Data` whose facts are measured on the training molecules."""

    def examples(rows: numpy.ndarray) -> torch.Tensor:
        batch = padded(collection, rows, hydrogens)
        batch["properties"] = torch.from_numpy(columns[rows].reshape(len(rows), len(names)))
        batch["identity"] = torch.from_numpy(identities[rows])
        return batch

    training = examples(train)
    try:
        facts = facts_of(training, names, [properties.unit_of(name) for name in names], hydrogens)
    except ValueError as error:
        raise UserError(str(error)) from None
    return Data(facts, training, examples(held_out) if len(held_out) >= 2 else None, tuple(notes))
