import io
import os
import random
import tarfile
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem, Crippen
from safetensors.numpy import load, save
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.system.cache import write_entry
from diffcore_molecule.chemistry import properties
from diffcore_molecule.chemistry.dft import DFT
from diffcore_molecule.chemistry.molecules import identity, remove_hydrogens, sanitised, to_rdkit
from diffcore_molecule.data import conformers, datasets, qm9, store
from diffcore_molecule.data.collection import collect, entry_of, molecules_of, normal_form, subset
from diffcore_molecule.data.examples import facts_of, molecule_at, padded
from diffcore_molecule.options import EmbeddedOptions, FileOptions, QM9Options, SmilesOptions


@pytest.fixture(scope="module")
def embedded():
    return datasets.embedded(EmbeddedOptions())


def with_positions(smiles):
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(molecule, randomSeed=1) == 0
    return molecule


# Arrays


AWKWARD = [
    "c1ccccc1",  # aromatic
    "C1=CC=C[NH]1",
    "[NH3+]CC([O-])=O",  # charges
    "C#N",
    "C[N+](=O)[O-]",
    "CS(=O)(=O)Cl",  # more than the usual valence
    "C",  # a single atom
    "F/C=C/F",
    "N=CC",  # a hydrogen that may define the stereochemistry of a double bond
    "c1cc[nH+]cc1",
]


@pytest.mark.parametrize("hydrogens", [False, True])
def test_molecules_survive_conversion_to_arrays(hydrogens):
    originals = [with_positions(smiles) for smiles in AWKWARD]
    collection = collect(entry_of(0, molecule).molecule for molecule in originals)
    rows = numpy.array([3, 0, 8, 2, 1, 9, 7, 5, 6, 4])
    batch = padded(collection, rows, hydrogens)
    for index, row in enumerate(rows.tolist()):
        molecule = molecule_at(batch, index)
        back = sanitised(to_rdkit(molecule, hydrogens))
        assert Chem.MolToSmiles(remove_hydrogens(back)) == Chem.CanonSmiles(AWKWARD[row])
        original = normal_form(originals[row]).GetConformer().GetPositions()[: len(molecule)]
        numpy.testing.assert_allclose(molecule.positions, original - original.mean(0), atol=2e-6)
    assert (batch["bonds"] == batch["bonds"].transpose(1, 2)).all()
    assert (batch["positions"][batch["numbers"] == 0] == 0).all()
    assert batch["numbers"].shape[1] == max(
        molecule.GetNumAtoms() if hydrogens else molecule.GetNumHeavyAtoms() for molecule in originals
    )


def test_a_subset_of_a_collection_has_those_molecules():
    collection = collect(entry_of(0, with_positions(smiles)).molecule for smiles in AWKWARD)
    whole = list(molecules_of(collection, hydrogens=True))
    for molecule, expected in zip(molecules_of(subset(collection, 2, 5), hydrogens=True), whole[2:5], strict=True):
        assert (molecule.bonds == expected.bonds).all()
        assert (molecule.positions == expected.positions).all()


def test_identity_depends_on_atoms_and_bonds_alone():
    def of(smiles):
        return identity(Chem.MolFromSmiles(smiles))

    assert of("OCC") == of("CCO") == of("[H]OC([2H])C") == identity(with_positions("CCO"))
    assert of("[H]/N=C/C") == of("N=CC") == identity(with_positions("[H]/N=C/C"))
    assert of("F/C=C/F") == of("F/C=C\\F") == of("FC=CF")
    assert of("C1=CC=CC=C1") == of("c1ccccc1")
    assert len({of(smiles) for smiles in ("CCO", "COC", "CC[O-]", "CC=O")}) == 4
    assert 0 <= of("CCO") < 2**63


@pytest.mark.parametrize(
    ("smiles", "why"),
    [
        ("[Na+].[Cl-]", "unconnected pieces"),
        ("[H][H]", "hydrogen atoms only"),
        ("C[CH]C", "cannot be implicit"),
        ("[H-].[Al+]", "unconnected pieces"),
    ],
)
def test_molecules_that_arrays_cannot_represent_are_refused(smiles, why):
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    molecule.AddConformer(Chem.Conformer(molecule.GetNumAtoms()))
    with pytest.raises(ValueError, match=why):
        entry_of(1, molecule)


def test_facts_are_those_of_the_molecules():
    molecules = [with_positions(smiles) for smiles in ("C#N", "C#N", "CC=O", "C[NH3+]")]
    collection = collect(entry_of(0, molecule).molecule for molecule in molecules)
    batch = padded(collection, numpy.arange(4))
    batch["properties"] = torch.tensor([[1.0], [float("nan")], [4.0], [7.0]])
    facts = facts_of(batch, ["p"], ["eV"], False)
    assert facts.elements == (6, 7, 8)
    assert facts.element_fractions == pytest.approx((5 / 9, 3 / 9, 1 / 9))
    assert facts.charges == (0, 1)
    assert facts.charge_fractions == pytest.approx((8 / 9, 1 / 9))
    assert facts.bond_fractions == pytest.approx((1 / 6, 2 / 6, 1 / 6, 2 / 6))
    assert (facts.sizes, facts.size_counts, facts.max_atoms) == ((2, 3), (3, 1), 3)
    positions = [molecule.GetConformer().GetPositions()[: molecule.GetNumHeavyAtoms()] for molecule in molecules]
    centred = numpy.concatenate([p - p.mean(0) for p in positions])
    assert facts.position_std == pytest.approx((centred**2).mean() ** 0.5, rel=1e-5)
    (found,) = facts.properties
    assert (found.name, found.unit, found.mean, found.std) == ("p", "eV", 4.0, pytest.approx(6**0.5))
    assert len(found.quantiles) == 101
    assert (found.quantiles[0], found.quantiles[50], found.quantiles[75]) == (1.0, 4.0, 5.5)
    assert found.by_size == ((4.0, pytest.approx(6**0.5)), (4.0, pytest.approx(6**0.5)))
    many = batch[[0, 3, 0, 3, 0, 3, 2]]
    by_size = facts_of(many, ["p"], [""], False).properties[0].by_size
    assert by_size[0] == (4.0, 3.0)  # six molecules; the only one with three atoms gets the standard deviation of all
    assert by_size[1] == (4.0, pytest.approx((6 * 9 / 7) ** 0.5))
    with pytest.raises(ValueError, match="undefined"):
        facts_of(batch[[1]], ["p"], [""], False)


# The embedded set


def test_embedded_molecules_are_qm9_s(embedded):
    assert (len(embedded.examples), len(embedded.held_out)) == (9000, 1000)
    assert isinstance(embedded.examples, TensorDict)
    facts = embedded.facts
    assert facts.elements == (6, 7, 8, 9)
    assert facts.max_atoms == 9
    # About 85 % of QM9 have 9 atoms other than hydrogen (111,897 of 133,885 according to the paper).
    assert facts.size_counts[-1] / 9000 == pytest.approx(111_897 / 133_885, abs=0.01)
    assert Path(datasets.EMBEDDED).stat().st_size < 2e6
    assert not embedded.notes


def test_embedded_properties_and_identities_are_those_of_this_rdkit(embedded):
    for row in range(0, 9000, 90):
        molecule = sanitised(to_rdkit(molecule_at(embedded.examples, row)))
        assert identity(molecule) == embedded.examples["identity"][row]
        measured = properties.measure(molecule, ["logp", "tpsa", "qed"])
        assert embedded.examples["properties"][row].tolist() == pytest.approx(measured, rel=1e-5, abs=1e-5)


def test_molecules_are_the_same_with_explicit_hydrogens(embedded):
    whole = datasets.embedded(EmbeddedOptions(hydrogens=True))
    assert whole.facts.elements == (1, 6, 7, 8, 9)
    assert whole.facts.max_atoms == 29
    assert torch.equal(whole.examples["identity"], embedded.examples["identity"])
    for row in range(0, 9000, 300):
        molecule = molecule_at(whole.examples, row)
        assert identity(sanitised(to_rdkit(molecule, hydrogens=True))) == whole.examples["identity"][row]
        distances = numpy.linalg.norm(molecule.positions[:, None] - molecule.positions[None], axis=-1)
        bonded = (molecule.bonds > 0) & (molecule.numbers[:, None] == 1)
        assert numpy.abs(distances[bonded] - 1.06).max() < 0.11  # C-H 1.09, O-H 0.96, N-H 1.01


def test_seeds_change_the_split(embedded):
    other = datasets.embedded(EmbeddedOptions(seed=1, held_out=0.2, properties=()))
    assert len(other.held_out) == 2000
    assert other.examples["properties"].shape == (8000, 0)
    assert other.facts.properties == ()
    for data in (embedded, other):
        assert not set(data.examples["identity"].tolist()) & set(data.held_out["identity"].tolist())
    shared = set(other.held_out["identity"].tolist()) & set(embedded.held_out["identity"].tolist())
    assert 150 < len(shared) < 250


def test_names_are_checked_before_molecules_are_read():
    with pytest.raises(
        UserError,
        match=r"`data.properties`: the property 'mu' comes from DFT: only the data set qm9 has it; properties are logp",
    ):
        datasets.embedded(EmbeddedOptions(properties=("logp", "mu")))
    with pytest.raises(UserError, match="unknown property 'colour'"):
        datasets.embedded(EmbeddedOptions(properties=("colour",)))
    with pytest.raises(UserError, match=r"`data\.properties` names 'qed' twice"):
        datasets.embedded(EmbeddedOptions(properties=("qed", "qed")))


# QM9's file

METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t-40.476062\t\
-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t1.0858041578\t8.0009958*^-3\t-0.535689
H\t0.002150416\t-0.0060313176\t0.0019761204\t0.133921
H\t1.0117308433\t1.4637511618\t0.0002765748\t0.133922
H\t-0.540815069\t1.4475266138\t-0.8766437152\t0.133923
H\t-0.5238136345\t1.4379326443\t0.9063972942\t0.133923
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""


def record(index, smiles, order=None, written=None):
    """A record of QM9; if given, its atoms are in another `order`, or the SMILES `written` is a wrong one."""
    molecule = with_positions(smiles)
    rows = [
        "\t".join([atom.GetSymbol(), *(f"{value:.8f}" for value in position), "0.0"])
        for atom, position in zip(molecule.GetAtoms(), molecule.GetConformer().GetPositions(), strict=True)
    ]
    rows = rows if order is None else [rows[i] for i in order] + rows[len(order) :]
    values = "\t".join(str(float(index + column)) for column in range(15))
    lines = [
        str(len(rows)),
        f"gdb {index}\t{values}\t",
        *rows,
        "100.0",
        f"{written or smiles}\t{written or smiles}",
        "InChI\tInChI",
    ]
    return "\n".join(lines) + "\n"


def pack(path, records):
    with tarfile.open(path, "w:bz2") as packed:
        for index, text in records.items():
            member = tarfile.TarInfo(f"dsgdb9nsd_{index:06d}.xyz")
            member.size = len(text)
            packed.addfile(member, io.BytesIO(text.encode()))
    return path


RECORDS = {1: METHANE} | {
    index: record(index, smiles)
    for index, smiles in enumerate(
        ["CCO", "C#N", "C1CC1", "CC=O", "OCC#N", "c1cc[nH]c1", "CNC", "C1CO1", "CC(C)C", "NC=O"], start=2
    )
}


@pytest.fixture(autouse=True)
def records_in_this_process(monkeypatch, request):
    """Records of QM9 are parsed without workers, whose start takes time; one test has them."""

    def here(function, portions, seconds, workers):
        for portion in portions:
            yield from zip(portion, function(portion), strict=True)

    if "with_workers" not in request.fixturenames:
        monkeypatch.setattr(qm9, "map_each", here)


@pytest.fixture
def with_workers():
    """Records of QM9 are parsed in workers, as they are for users."""


@pytest.fixture
def small(tmp_path):
    return pack(tmp_path / "dsgdb9nsd.xyz.tar.bz2", RECORDS)


def everything(data):
    return torch.cat([data.examples, data.held_out])


def test_methane_is_as_published():
    known = qm9.parse(METHANE)
    assert known.index == 1
    values = {name: known.values[column.index] * column.factor for name, column in DFT.items()}
    assert values["mu"] == 0
    assert values["alpha"] == 13.21
    assert values["gap"] == pytest.approx(13.736, abs=1e-3)  # eV
    assert values["homo"] == pytest.approx(-10.550, abs=1e-3)
    assert values["gap"] == pytest.approx(values["lumo"] - values["homo"], abs=1e-6)
    assert values["cv"] == 6.469
    molecule = qm9.molecule(known)
    assert molecule.numbers.tolist() == [6, 1, 1, 1, 1]
    assert molecule.positions[0, 2] == pytest.approx(0.0080009958)
    assert molecule.bonds[0].tolist() == [0, 1, 1, 1, 1]
    assert numpy.linalg.norm(molecule.positions[1:] - molecule.positions[0], axis=1) == pytest.approx(1.0919, abs=1e-3)


def test_qm9_s_file_is_read(small, tmp_path):
    options = QM9Options(root=str(tmp_path), properties=("mu", "logp"))
    data = datasets.qm9(options)
    whole = everything(data)
    # EDM's split in the same proportions: 8 to train, 1 to test, 2 for validation, which are not used.
    assert (len(data.examples), len(data.held_out)) == (8, 1)
    expected = {identity(Chem.MolFromSmiles(s)): s for s in ("CCO", "C#N", "C1CC1", "CC=O", "OCC#N", "CNC", "C1CO1")}
    for row in range(len(whole)):
        smiles = expected.get(int(whole["identity"][row]))
        if smiles:
            logp = Crippen.MolLogP(Chem.MolFromSmiles(smiles))
            index = next(i for i, text in RECORDS.items() if f"\n{smiles}\t" in text)
            assert whole["properties"][row].tolist() == pytest.approx([index + 3, logp], abs=1e-5)
    assert [(p.unit, p.is_dft) for p in data.facts.properties] == [("D", True), ("", False)]
    assert data.notes == ("dsgdb9nsd.xyz.tar.bz2 contains 11 molecules, not 130831: the split differs from EDM's",)


@pytest.mark.usefixtures("with_workers")
def test_other_orders_are_matched_and_failures_are_named(tmp_path):
    records = RECORDS | {
        20: record(20, "CC(O)C#N", order=[3, 0, 4, 2, 1]),
        21: record(21, "CCCO", written="CC(C)O"),
        22: "not a record\n",
        23: record(23, "CC", written="not SMILES"),
    }
    path = pack(tmp_path / "dsgdb9nsd.xyz.tar.bz2", records)
    assert qm9.entries([(20, records[20])])[0][2] == "a geometry that does not match its SMILES"
    data = datasets.qm9(QM9Options(root=str(path), properties=("mu",)))
    assert data.ledger.found == 15
    assert data.ledger.passed_over == {
        "a geometry that does not match its SMILES": ("GDB-9 record 21", "GDB-9 record 23"),
        "a record that is not in QM9's format": ("GDB-9 record 22",),
    }
    assert qm9.rematched(qm9.parse(records[20])).numbers[:5].tolist() == [6, 6, 8, 6, 7]
    stored = qm9.read(path)
    row = stored.sources.tolist().index(20)
    assert stored.identities[row] == identity(Chem.MolFromSmiles("CC(O)C#N"))


def test_positions_of_qm9_are_judged_like_those_of_other_files():
    near = METHANE.replace("1.0117308433\t1.4637511618\t0.0002765748", "0.0021504160\t0.1060313176\t0.0019761204")
    ((_, _, read),) = qm9.entries([(1, near)])
    assert read == "atoms 2 and 3 are 0.11 Angstrom apart"


def test_damaged_records_never_end_in_a_traceback():
    draw = random.Random(0)
    outcomes = []
    for source in (METHANE, RECORDS[7], RECORDS[3].replace("gdb 3", "gdb 99999999999999999999")):
        for _ in range(100):
            text = list(source)
            for _ in range(draw.randint(0, 3)):
                text[draw.randrange(len(text))] = draw.choice([*"0123456789 -.\t\nCNO()[]=#", "\0", ""])
            ((_, known, read),) = qm9.entries([(1, "".join(text))])
            outcomes.append(read if isinstance(read, str) else "entry")
            if known is not None and isinstance(read, str):
                with suppress(ValueError):
                    qm9.rematched_entry(known)
    assert 20 < outcomes.count("entry") < len(outcomes) - 20
    assert all(outcomes)


def test_uncharacterised_molecules_are_excluded(small, tmp_path):
    (tmp_path / "uncharacterized.txt").write_text(
        "List of Uncharacterized molecules\n\nindex   SMILES1  SMILES2  metric\n"
        "-----\n  2   CCO   CC=O  1.2\n  7   c1cc[nH]c1   C  0.3\n-----\n2 compounds\n"
    )
    assert 7 not in qm9.read(small).sources
    assert len(qm9.read(small)) == 9


def test_the_split_is_that_of_edm():
    """The same as in its functions `gen_splits_gdb9` and `qm9_second_half`."""
    numpy.random.seed(0)
    order = numpy.random.permutation(130_831)
    expected = numpy.split(order, [100_000, 117_748])
    train, valid, test = qm9.split(130_831)
    assert (len(train), len(valid), len(test)) == (100_000, 17_748, 13_083)
    for part, other in zip((train, valid, test), expected, strict=True):
        assert (part == other).all()
    numpy.random.seed(42)
    order = numpy.random.permutation(100_000)
    first, second = qm9.halves(train)
    assert (first == train[order[:50_000]]).all()
    assert (second == train[order[50_000:]]).all()


def test_halves_are_of_the_training_molecules(small):
    whole = datasets.qm9(QM9Options(root=str(small), properties=()))
    data = datasets.qm9(QM9Options(root=str(small), properties=(), half=True))
    assert len(data.examples) == len(data.held_out) == 4
    assert set(everything(data)["identity"].tolist()) == set(whole.examples["identity"].tolist())


def test_a_wrong_root_is_refused_in_a_line(tmp_path):
    with pytest.raises(UserError, match=r"needs `data\.root`, the file .*figshare .*3195389.*978904"):
        datasets.qm9(QM9Options())
    with pytest.raises(UserError, match=r"no file .*dsgdb9nsd\.xyz\.tar\.bz2"):
        datasets.qm9(QM9Options(root=str(tmp_path)))
    path = pack(tmp_path / "dsgdb9nsd.xyz.tar.bz2", RECORDS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"is damaged: .*download it again") as caught:
        datasets.qm9(QM9Options(root=str(tmp_path)))
    assert "\n" not in str(caught.value)
    pack(path, {})
    with pytest.raises(UserError, match="contains no molecules"):
        datasets.qm9(QM9Options(root=str(tmp_path)))


def test_an_archive_that_decodes_to_gigabytes_is_refused(tmp_path, monkeypatch):
    path = tmp_path / qm9.NAME
    pack(path, {1: METHANE, 2: "0" * 2**20 + "x", 3: METHANE})  # a member that is too long is not read
    assert [number for number, _ in qm9.texts(path)] == [1, 3]
    monkeypatch.setattr("diffcore.system.bounded.LEAST", 2**20)
    pack(path, dict.fromkeys(range(8), "0" * 2**18))
    assert path.stat().st_size < 4000
    with pytest.raises(UserError, match=r"decodes to more than 1,048,576 bytes, over 100 times its size") as caught:
        datasets.qm9(QM9Options(root=str(path)))
    assert "\n" not in str(caught.value)


def test_real_qm9(real_data):
    """The first 60 records of the official file."""
    path = real_data / "qm9" / "dsgdb9nsd.xyz.tar.bz2"
    if not path.is_file():
        pytest.skip(f"no {path}")
    found = qm9.entries(list(islice(qm9.texts(path), 60)))
    assert [number for number, _, _ in found[:5]] == [1, 2, 3, 4, 5]
    # The atoms of diacetylene and cyanoacetylene are not in the order of their SMILES.
    assert [number for number, _, read in found if isinstance(read, str)] == [23, 24]
    for _, known, read in found:
        entry = qm9.rematched_entry(known) if isinstance(read, str) else read
        assert entry.identity == identity(Chem.MolFromSmiles(known.smiles[0]))


# The cache


def test_cached_molecules_are_not_read_again(small, monkeypatch):
    options = QM9Options(root=str(small), properties=("mu",))
    first = everything(datasets.qm9(options))

    def refuse(*_):
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(qm9, "read", refuse)
        second = everything(datasets.qm9(options))
        assert all(torch.equal(first[name], second[name]) for name in first.keys())
        datasets.qm9(options.model_copy(update={"hydrogens": True, "properties": ("logp", "gap")}))
        patch.setattr(store, "_measure", refuse)
        datasets.qm9(options.model_copy(update={"properties": ("logp",)}))
        pack(small, dict(list(RECORDS.items())[:-1]))
        with pytest.raises(AssertionError):
            datasets.qm9(options)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of an empty cache for molecules."""
    monkeypatch.setenv("DIFFCORE_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / "molecules"


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


def test_a_damaged_cache_never_changes_the_data(small, kept, caplog):
    """Bytes are flipped over the whole of both entries, the molecules and a property; each is noticed and renewed."""
    options = QM9Options(root=str(small), properties=("mu", "logp"))
    first = everything(datasets.qm9(options))
    entries = sorted(kept.iterdir())
    assert [path.suffix for path in entries] == [".molecules", ".property_logp"]
    for path in entries:
        stored = path.read_bytes()
        damages = [flipped(stored, place) for place in range(0, len(stored), max(len(stored) // 20, 1))]
        for damaged in [*damages, b"", stored[:-3], entries[0].read_bytes() if path == entries[1] else b"other"]:
            path.write_bytes(damaged)
            caplog.clear()
            data = datasets.qm9(options)
            assert (everything(data) == first).all()
            assert len(data.notes) == 1
            assert "cannot be used" in caplog.text
            assert path.read_bytes() == stored
    assert sorted(kept.iterdir()) == entries


def test_a_pipe_in_the_cache_does_not_hang(small, kept):
    options = QM9Options(root=str(small), properties=("logp",))
    first = everything(datasets.qm9(options))
    for path in list(kept.iterdir()):
        path.unlink()
        os.mkfifo(path)
    assert (everything(datasets.qm9(options)) == first).all()
    assert all(path.is_file() for path in kept.iterdir())


def test_arrays_that_do_not_fit_together_are_not_used(small, kept, monkeypatch):
    """Also those with a right digest, such as of a fault in this package."""
    options = QM9Options(root=str(small), properties=())
    first = everything(datasets.qm9(options))
    (path,) = kept.iterdir()
    read = store.read_entry(path)
    for harm in ({"sources": numpy.zeros(3, "i8")}, {"positions": numpy.full((75, 3), numpy.nan, "f4")}):
        write_entry(path, save({**load(read), **harm}))
        assert (everything(datasets.qm9(options)) == first).all()


def test_an_interrupted_write_leaves_nothing(small, kept, monkeypatch):
    options = QM9Options(root=str(small), properties=("mu",))
    with monkeypatch.context() as patch:

        def interrupt(*_):
            raise KeyboardInterrupt

        patch.setattr(Path, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            datasets.qm9(options)
    assert list(kept.iterdir()) == []


def test_data_can_be_read_without_a_cache(small, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DIFFCORE_CACHE", str(tmp_path / "file"))
    data = datasets.qm9(QM9Options(root=str(small), properties=("logp",)))
    assert len(data.examples) == 8
    assert data.notes[0].startswith(f"the molecules cannot be cached in {tmp_path / 'file' / 'molecules'}")


# A user's own files


def write_sdf(path, molecules):
    with Chem.SDWriter(str(path)) as writer:
        for molecule in molecules:
            writer.write(molecule)


def sdf(path, **options):
    return datasets.sdf(FileOptions(path=str(path), **options))


def test_an_sdf_file(tmp_path):
    flat = Chem.MolFromSmiles("CC(=O)C")
    AllChem.Compute2DCoords(flat)
    kept = with_positions("CCO")
    bare = Chem.RemoveHs(with_positions("CCN"))
    write_sdf(tmp_path / "own.sdf", [kept, flat, bare, with_positions("CCCCCCCCCCC")])
    text = (tmp_path / "own.sdf").read_text()
    with (tmp_path / "own.sdf").open("a") as stream:
        stream.write("broken\nrecord\n$$$$\n")
        stream.write(Chem.MolToMolBlock(Chem.MolFromSmiles("CC[O-].[Na+]")) + "$$$$\n")
        stream.write(text.split("$$$$\n")[0].replace("  1  2  1  0", "  1  2  4  0") + "$$$$\n")
        stream.write(Chem.MolToMolBlock(with_positions("CF")))  # without the last line, as some programs write it
    data = sdf(tmp_path / "own.sdf", max_atoms=10, held_out=0.5, seed=1)
    assert data.ledger.found == 8
    assert data.ledger.passed_over == {
        "more atoms than `data.max_atoms` 10": ("record 4",),
        "not a molfile: Counts line too short: '' on line4": ("record 5",),
        "several unconnected pieces; `data.salts` largest uses the largest one": ("record 6",),
        "a bond is AROMATIC, not single, double or triple": ("record 7",),
    }
    assert data.ledger.changed == {conformers.GENERATED: ("record 2",)}
    whole = {row["identity"].item(): molecule_at(row[None], 0) for row in everything(data)}
    assert set(whole) == {identity(Chem.MolFromSmiles(smiles)) for smiles in ("CCO", "CC(=O)C", "CCN", "CF")}
    positions = kept.GetConformer().GetPositions()[:3]
    found = whole[identity(Chem.MolFromSmiles("CCO"))].positions
    numpy.testing.assert_allclose(found, positions - positions.mean(0), atol=2e-4)
    acetone = whole[identity(flat)].positions
    assert numpy.linalg.norm(acetone[1] - acetone[2]) == pytest.approx(1.22, abs=0.03)  # 1.5 in the drawing
    small = sdf(tmp_path / "own.sdf", max_atoms=9, hydrogens=True)
    assert small.facts.max_atoms == 9
    assert small.ledger.passed_over["more atoms than `data.max_atoms` 9"] == ("record 2", "record 3", "record 4")
    assert not small.ledger.changed


def smiles_set(path, **options):
    return datasets.smiles(SmilesOptions(path=str(path), **options))


def test_a_list_of_smiles(tmp_path):
    names = ["CCO", "CCN", "c1ccccc1", "OCC", "CC(C)CC(N)O"]
    path = tmp_path / "own.smi"
    path.write_text("SMILES name\n# mine\n" + "".join(f"{s} x\n" for s in names) + "\nnonsense y\n[Na+].[Cl-] salt\n")
    data = smiles_set(path, conformers=3, held_out=0.5)
    assert data.ledger.passed_over == {
        "not a SMILES: its syntax is wrong near character 5": ("line 9",),
        "several unconnected pieces; `data.salts` largest uses the largest one": ("line 10",),
    }
    ids = [part["identity"].tolist() for part in (data.examples, data.held_out)]
    assert not set(ids[0]) & set(ids[1])
    counts = {value: sum(ids, []).count(value) for value in sum(ids, [])}  # noqa: RUF017
    assert counts[identity(Chem.MolFromSmiles("CCO"))] == 6
    assert sorted(counts.values()) == [3, 3, 3, 6]
    for row in range(len(data.examples)):
        molecule = molecule_at(data.examples, row)
        distances = numpy.linalg.norm(molecule.positions[:, None] - molecule.positions[None], axis=-1)
        assert (numpy.abs(distances[molecule.bonds > 0] - 1.45) < 0.15).all()


def test_a_table_of_smiles(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text('name,SMILES\n"a, b",CCO\nc,CCN\nd,\n')
    data = smiles_set(path, properties=("weight",))
    assert sorted(data.examples["properties"][:, 0].tolist()) == pytest.approx([45.085, 46.069], abs=1e-3)
    assert data.held_out is None
    assert data.ledger.passed_over == {"no SMILES: the cell is empty": ("line 4",)}
    with pytest.raises(UserError, match=r"no column 'structure': `data\.column` must name .*, one of name, SMILES"):
        smiles_set(path, column="structure")


def test_molecules_that_hang_are_named(tmp_path):
    path = tmp_path / "own.smi"
    path.write_text("CCO\n" + "C1" + "CC" * 60 + "1\n")
    data = smiles_set(path, time_limit=2, max_atoms=200, conformers=200, relax=False)
    assert data.ledger.passed_over == {"took longer than 2 s": ("line 2",)}


@pytest.mark.parametrize("read", [sdf, smiles_set])
def test_files_that_cannot_be_used_are_refused_in_a_line(tmp_path, read):
    ending = ".sdf" if read is sdf else ".smi"
    cases = {
        "missing" + ending: (None, "no file"),
        "wrong.xyz": ("CCO", "must be a file that ends in"),
        "empty" + ending: ("", "is empty"),
        "none" + ending: ("nonsense\n", r"no molecules in .*: 1 of 1 molecules are left out: not a .* \(\w+ 1\)"),
        "blank" + ending: ("\n\n", "with a molecule"),
    }
    for name, (text, message) in cases.items():
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=message) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match=r"needs `data\.path`, a file that ends in"):
        (datasets.sdf if read is sdf else datasets.smiles)(FileOptions() if read is sdf else SmilesOptions())
