"""The data sets: embedded, QM9's official file, and a user's own files.

The examples of all are molecules padded to the most atoms of the set, see `examples.padded`, with `properties`
`[n, P]` (NaN where undefined) and `identity` `[n]`, by which molecules are told apart.
"""

from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy
import rdkit
import torch
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.plugins.data import Data
from diffcore_molecule.chemistry import properties
from diffcore_molecule.chemistry.molecules import identity
from diffcore_molecule.data import qm9 as official
from diffcore_molecule.data.collection import Collection, implied, molecules_of
from diffcore_molecule.data.examples import atom_counts, facts_of, padded
from diffcore_molecule.data.files import read_sdf, read_smiles
from diffcore_molecule.data.store import Parsed, check_names, file_parts, key_of, measured, remembered, told
from diffcore_molecule.options import DataOptions, EmbeddedOptions, FileOptions, QM9Options, SmilesOptions

EMBEDDED = Path(__file__).parent / "qm9_part.npz"
STEP = 0.01
"""What embedded places are rounded to, Angstrom."""


def embedded(options: EmbeddedOptions) -> Data:
    """10,000 molecules of QM9, which come with the plugin: up to 9 atoms of C, N, O, F, and hydrogens."""
    check_names(options.properties)
    content = EMBEDDED.read_bytes()
    molecules = remembered(key_of("embedded", blake2b(content).hexdigest()), _embedded)
    return data(molecules, options, *split(molecules.identities, options.held_out, options.seed))


def _embedded() -> Parsed:
    with numpy.load(EMBEDDED, allow_pickle=False) as stored:
        arrays = dict(stored)
    measured_by = str(arrays.pop("rdkit"))
    columns = {name[9:]: arrays.pop(name) for name in list(arrays) if name.startswith("property_")}
    sources, identities = arrays.pop("sources").astype(numpy.int64), arrays.pop("identities")
    low_high = arrays["positions"].transpose(1, 2, 0)  # the two bytes of each coordinate lie apart
    steps = numpy.ascontiguousarray(low_high).view("<i2")[..., 0].T
    arrays |= {"positions": steps.astype(numpy.float32) * numpy.float32(STEP), "bonds": arrays["bonds"].T}
    collection = Collection(**arrays)
    if measured_by != rdkit.__version__:  # another version may write SMILES in another way
        entries = molecules_of(collection, hydrogens=True)
        identities, columns = numpy.array([identity(implied(molecule)) for molecule in entries], dtype=numpy.int64), {}
    return Parsed(collection, sources, identities, columns=columns)


def qm9(options: QM9Options) -> Data:
    """QM9's 130,831 molecules in EDM's split: 100,000 to train on, 13,083 held out; or its two halves of 50,000."""
    name = "dsgdb9nsd.xyz.tar.bz2"
    check_names(options.properties, tuple(properties.DFT))
    if options.root is None:
        raise UserError(
            f"the data set 'qm9' needs `data.root` PATH, the file {name} or the folder that holds it; "
            "get it from figshare (file 3195389 of springernature's collection 978904)"
        )
    path = Path(options.root) / name if Path(options.root).is_dir() else Path(options.root)
    if not path.is_file():
        raise UserError(
            f"no file {path}: `data.root` must be {name} or the folder that holds it; "
            "get it from figshare (file 3195389 of springernature's collection 978904)"
        )
    listed = path.parent / "uncharacterized.txt"
    key = key_of("qm9", *file_parts(path), *(file_parts(listed) if listed.is_file() else ()))
    molecules = remembered(key, lambda: official.read(path))
    notes = list(molecules.notes)
    numbers = numpy.sort([*molecules.sources.tolist(), *(number for number, _ in molecules.unread)])
    if len(numbers) != official.CHARACTERISED:
        notes.append(
            f"{path.name} holds {len(numbers)} molecules, not {official.CHARACTERISED}: the split is not that of EDM"
        )
    if molecules.unread:
        notes.append(told(len(numbers), "molecules", molecules.unread, "gdb"))
    train, _, test = official.split(len(numbers), options.seed)
    if options.half:
        test, train = official.halves(train)
    rows = (numpy.flatnonzero(numpy.isin(molecules.sources, numbers[part])) for part in (train, test))
    return data(replace(molecules, notes=tuple(notes)), options, *rows)


def sdf(options: FileOptions) -> Data:
    """The molecules of an SDF file; those that are flat get a conformer."""
    check_names(options.properties)
    return _own(read_sdf(options), options, "record")


def smiles(options: SmilesOptions) -> Data:
    """Conformers of the molecules of a list of SMILES: a line each, or a column of a table."""
    check_names(options.properties)
    return _own(read_smiles(options), options, "line")


def _own(molecules: Parsed, options: FileOptions, name: str) -> Data:
    """A user's molecules, without those that are too large once hydrogens count."""
    rows = numpy.arange(len(molecules))
    unread = list(molecules.unread)
    if options.hydrogens:
        sizes = molecules.collection.sizes
        large = sizes > options.max_atoms
        rows = numpy.flatnonzero(~large)
        for row in numpy.flatnonzero(large).tolist():
            unread.append((int(molecules.sources[row]), f"{sizes[row]} atoms, more than {options.max_atoms}"))
        unread = sorted(set(unread))
    if not len(rows):
        raise UserError(
            f"no molecule of {options.path} is small enough: {told(len(unread), 'molecules', unread, name)}"
        )
    count = len(numpy.unique(molecules.sources)) + len(molecules.unread)
    notes = (told(count, "molecules", unread, name),) if unread else ()
    train, held_out = split(molecules.identities[rows], options.held_out, options.seed)
    return data(replace(molecules, notes=(*molecules.notes, *notes)), options, rows[train], rows[held_out])


def split(identities: numpy.ndarray, share: float, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Rows to train on and rows to hold out. All conformers of a molecule are on the same side."""
    _, which = numpy.unique(identities, return_inverse=True)
    different = int(which.max()) + 1
    held = (numpy.random.default_rng(seed).permutation(different) < round(share * different))[which]
    if held.sum() < 2:  # too few for metrics
        held[:] = False
    return numpy.flatnonzero(~held), numpy.flatnonzero(held)


def data(molecules: Parsed, options: DataOptions, train: numpy.ndarray, held_out: numpy.ndarray) -> Data:
    """A `Data` of these rows, whose facts are measured on the training molecules."""
    names = options.properties
    columns = measured(molecules, names)
    width = int(atom_counts(molecules.collection, options.hydrogens)[numpy.concatenate([train, held_out])].max())

    def examples(rows: numpy.ndarray) -> TensorDict:
        batch = padded(molecules.collection, rows, options.hydrogens, width)
        batch["properties"] = torch.from_numpy(columns[rows])
        batch["identity"] = torch.from_numpy(molecules.identities[rows])
        return batch

    training = examples(train)
    try:
        facts = facts_of(training, names, [properties.unit_of(name) for name in names], options.hydrogens)
    except ValueError as error:
        raise UserError(str(error)) from None
    return Data(facts, training, examples(held_out) if len(held_out) else None, molecules.notes)
