"""The data sets: the included part of QM9, the official QM9 file, and files of the user.

Examples are molecules padded to the largest number of atoms in the set, see `examples.padded`, with `properties`
`[n, P]` (NaN where undefined) and `identity` `[n]`, which is equal for equal molecules.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

import numpy
import rdkit
import torch
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.plugins.data import Data
from diffcore.plugins.ledger import Account
from diffcore_molecule.chemistry import properties
from diffcore_molecule.chemistry.dft import DFT
from diffcore_molecule.chemistry.molecules import identity
from diffcore_molecule.data import qm9 as official
from diffcore_molecule.data.captions import Texts, described, of_file
from diffcore_molecule.data.collection import Collection, molecules_of, with_implicit_hydrogens
from diffcore_molecule.data.examples import atom_counts, facts_of, padded
from diffcore_molecule.data.files import (
    SDF_ENDINGS,
    SMILES_ENDINGS,
    captions_of,
    checked_path,
    read_sdf,
    read_smiles,
    values_of_file,
)
from diffcore_molecule.data.store import (
    Parsed,
    cached,
    check_names,
    file_state,
    key_of,
    left_out_message,
    property_values,
    without_function,
)
from diffcore_molecule.options import DataOptions, EmbeddedOptions, FileOptions, QM9Options, SmilesOptions

EMBEDDED = Path(__file__).parent / "qm9_part.npz"
STEP = 0.01
"""The resolution of the included positions in Angstrom."""


def embedded(options: EmbeddedOptions) -> Data:
    """10,000 molecules of QM9, which are included in the plugin: up to 9 atoms of C, N, O and F, and hydrogens."""
    check_names(options.names)
    content = EMBEDDED.read_bytes()
    molecules = cached(key_of("embedded", blake2b(content).hexdigest()), _embedded)
    return data(molecules, options, *split(molecules.identities, options.held_out, options.seed))


def _embedded() -> Parsed:
    with numpy.load(EMBEDDED, allow_pickle=False) as stored:
        arrays = dict(stored)
    version = str(arrays.pop("rdkit"))
    columns = {name[9:]: arrays.pop(name) for name in list(arrays) if name.startswith("property_")}
    sources, identities = arrays.pop("sources").astype(numpy.int64), arrays.pop("identities")
    low_high = arrays["positions"].transpose(1, 2, 0)  # the low and high bytes of coordinates are stored separately
    steps = numpy.ascontiguousarray(low_high).view("<i2")[..., 0].T
    arrays |= {"positions": steps.astype(numpy.float32) * numpy.float32(STEP), "bonds": arrays["bonds"].T}
    collection = Collection(**arrays)
    if version != rdkit.__version__:  # another version of RDKit may write other SMILES
        entries = molecules_of(collection, hydrogens=True)
        new = [identity(with_implicit_hydrogens(molecule)) for molecule in entries]
        identities, columns = numpy.array(new, dtype=numpy.int64), {}
    return Parsed(collection, sources, identities, columns=columns)


def qm9(options: QM9Options) -> Data:
    """QM9's 130,831 molecules in EDM's split: 100,000 to train on, 13,083 held out; or two halves of the 100,000."""
    check_names(options.names, tuple(DFT))
    if options.root is None:
        raise UserError(
            f"the data set 'qm9' needs `data.root`, the file {official.NAME} or the folder that contains it; "
            "download it from figshare (file 3195389 of springernature's collection 978904)"
        )
    path = Path(options.root) / official.NAME if Path(options.root).is_dir() else Path(options.root)
    if not path.is_file():
        raise UserError(
            f"no file {path}: `data.root` must be {official.NAME} or the folder that contains it; "
            "download it from figshare (file 3195389 of springernature's collection 978904)"
        )
    excluded = path.parent / "uncharacterized.txt"
    key = key_of("qm9", *file_state(path), *(file_state(excluded) if excluded.is_file() else ()))
    molecules = cached(key, lambda: official.read(path))
    notes = list(molecules.notes)
    numbers = numpy.sort([*molecules.sources.tolist(), *(number for number, _ in molecules.left_out)])
    if len(numbers) != official.CHARACTERISED:
        notes.append(
            f"{path.name} contains {len(numbers)} molecules, not {official.CHARACTERISED}: the split differs from EDM's"
        )
    account = Account("molecules", str(path), len(numbers))
    for number, reason in molecules.left_out:
        account.pass_over(f"GDB-9 record {number}", reason)
    train, _, test = official.split(len(numbers), options.seed)
    if options.half:
        test, train = official.halves(train)
    training, held_out = (numpy.flatnonzero(numpy.isin(molecules.sources, numbers[part])) for part in (train, test))
    return data(replace(molecules, notes=tuple(notes)), options, training, held_out, account)


def sdf(options: FileOptions) -> Data:
    """The molecules of an SDF or MOL2 file. Molecules without 3D coordinates get a conformer."""
    given = _given(options, "sdf", SDF_ENDINGS)
    return _from_file(read_sdf(options), options, "record", given)


def smiles(options: SmilesOptions) -> Data:
    """Conformers of the molecules of a list of SMILES: one in each line, or a column of a table."""
    given = _given(options, "smiles", SMILES_ENDINGS)
    return _from_file(read_smiles(options), options, "line", given)


def _given(options: FileOptions, name: str, endings: tuple[str, ...]) -> dict[str, dict[int, str]]:
    """The values of the properties that only the file knows, by name and by record or line."""
    names = without_function(options.names)
    if names:
        checked_path(options, name, endings)
    given = values_of_file(options, names)
    check_names(options.names, names)
    return given


def _numbers(
    given: Mapping[str, Mapping[int, str]], sources: numpy.ndarray, used: frozenset[int], unit: str, account: Account
) -> dict[str, numpy.ndarray]:
    """The numbers `[n]` of each property in the file, NaN where a molecule has none, which the account gets."""
    columns = {}
    for name, values in given.items():
        numbers = {}
        for number in sorted(set(sources.tolist())):
            try:
                numbers[number] = float(values.get(number, ""))
            except ValueError:
                numbers[number] = math.nan
            if number in used and not math.isfinite(numbers[number]):
                account.note(f"{unit} {number}", f"without a number in {name!r}")
        found = numpy.array([numbers[number] for number in sources.tolist()])
        columns[name] = numpy.where(numpy.isfinite(found), found, numpy.nan)
    return columns


def _from_file(
    molecules: Parsed, options: FileOptions, unit: str, given: Mapping[str, Mapping[int, str]] = MappingProxyType({})
) -> Data:
    """The data of a user's file, without the molecules that are too large if hydrogens count as atoms."""
    rows = numpy.arange(len(molecules))
    left_out = list(molecules.left_out)
    if options.hydrogens:
        sizes = molecules.collection.sizes
        large = sizes > options.max_atoms
        rows = numpy.flatnonzero(~large)
        for row in numpy.flatnonzero(large).tolist():
            left_out.append((int(molecules.sources[row]), f"more atoms than `data.max_atoms` {options.max_atoms}"))
        left_out = sorted(set(left_out))
    if not len(rows):
        raise UserError(f"no molecule of {options.path} can be used: {left_out_message(len(left_out), left_out, unit)}")
    account = Account("molecules", str(options.path), len(numpy.unique(molecules.sources)) + len(molecules.left_out))
    for number, reason in left_out:
        account.pass_over(f"{unit} {number}", reason)
    used = frozenset(molecules.sources[rows].tolist())
    own = _numbers(given, molecules.sources, used, unit, account)
    molecules = replace(molecules, columns={**molecules.columns, **own})
    for number, how in molecules.changed:
        if number in used:
            account.change(f"{unit} {number}", how)
    train, held_out = split(molecules.identities[rows], options.held_out, options.seed)
    texts = None
    if not options.captions:
        texts = of_file(captions_of(options), molecules, rows[train], rows[held_out], unit, account)
    return data(molecules, options, rows[train], rows[held_out], account, texts)


def split(identities: numpy.ndarray, fraction: float, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The rows to train on, and the `fraction` of rows to hold out. The split never separates equal molecules."""
    _, which = numpy.unique(identities, return_inverse=True)
    different = int(which.max()) + 1
    held_out = (numpy.random.default_rng(seed).permutation(different) < round(fraction * different))[which]
    if held_out.sum() < 2:  # too few for metrics
        held_out[:] = False
    return numpy.flatnonzero(~held_out), numpy.flatnonzero(held_out)


def _with_values(
    molecules: Parsed, columns: numpy.ndarray, train: numpy.ndarray, held_out: numpy.ndarray, account: Account
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The rows with a value of every property; the account gets the others. Raises `UserError` if too few are left."""
    there = numpy.isfinite(columns).all(1)
    for row in numpy.concatenate([train, held_out]).tolist():
        if not there[row]:
            account.pass_over(f"number {molecules.sources[row]}", "without a value of a property of `data.joint`")
    kept = train[there[train]]
    if len(kept) < 2:
        raise UserError(f"`data.joint`: only {len(kept)} molecules have values of all of these properties")
    held = held_out[there[held_out]]
    return kept, held if len(held) > 1 else held[:0]


def data(
    molecules: Parsed,
    options: DataOptions,
    train: numpy.ndarray,
    held_out: numpy.ndarray,
    account: Account | None = None,
    texts: Texts | None = None,
) -> Data:
    """A `Data` of these rows. The facts are statistics of the training molecules alone.

    `texts` are captions of the molecules; with `options.captions`, sentences are written instead.
    """
    names = options.names
    columns = property_values(molecules, names)
    if options.joint:
        train, held_out = _with_values(molecules, columns, train, held_out, account := account or Account("molecules"))
    counts = atom_counts(molecules.collection, options.hydrogens)[numpy.concatenate([train, held_out])]
    width = int(counts.max())
    size = f"{counts.min()} to {width} atoms" + (", with hydrogens" if options.hydrogens else ", without hydrogens")
    ledger = (account or Account("molecules")).ledger(skip=False, size=size)

    def examples(rows: numpy.ndarray) -> TensorDict:
        batch = padded(molecules.collection, rows, options.hydrogens, width)
        batch["properties"] = torch.from_numpy(columns[rows])
        batch["identity"] = torch.from_numpy(molecules.identities[rows])
        return batch

    training = examples(train)
    from_qm9 = [name for name in names if name in DFT and name in molecules.columns and isinstance(options, QM9Options)]
    unknown = without_function(names)  # their values are those of a file, which does not say units
    units = [
        DFT[name].unit if name in from_qm9 else "" if name in unknown else properties.find(name).unit for name in names
    ]
    try:
        facts = facts_of(training, names, units, options.hydrogens, from_qm9, joint=bool(options.joint))
    except ValueError as error:
        option = "joint" if options.joint else "properties"
        raise UserError(f"{error}; leave it out of `data.{option}`") from None
    others = examples(held_out) if len(held_out) else None
    if options.captions:
        texts = described(molecules, train, held_out, options.seed)
        facts = facts.model_copy(update={"described": True})
    if texts is None or not texts.texts:
        return Data(facts, training, others, molecules.notes, ledger)
    training["captions"] = texts.train
    if others is not None:
        others["captions"] = texts.held_out
    return Data(facts, training, others, molecules.notes, ledger, texts.texts)
