"""Files of molecules as people have them: formats and dialects, wrong positions, and hostile content."""

import gzip
import io
import logging
import random
from contextlib import contextmanager, nullcontext

import numpy
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from diffcore.errors import UserError
from diffcore_molecule.chemistry.geometry import geometry_fault
from diffcore_molecule.chemistry.molecules import identity
from diffcore_molecule.chemistry.reading import molecule_of_molfile, molecule_of_smiles
from diffcore_molecule.data import blocks, conformers, datasets, files, samples
from diffcore_molecule.data.conformers import Request, entries_of
from diffcore_molecule.data.record_texts import sdf_records
from diffcore_molecule.data.samples import read_molecules
from diffcore_molecule.data.smiles_tables import smiles_cells
from diffcore_molecule.data.text import LONGEST_LINE, lines_of, opened
from diffcore_molecule.evaluation import metrics
from diffcore_molecule.options import FileOptions, SmilesOptions
from diffcore_molecule.output.records import record
from diffcore_molecule.output.writer import sdf
from tests.molecule.made import by_hand, conformer, star


def molfile(smiles, hydrogens=True):
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(molecule, randomSeed=1) == 0
    return Chem.MolToMolBlock(molecule if hydrogens else Chem.RemoveHs(molecule))


ETHANOL, BENZENE, BUTANE = map(molfile, ("CCO", "c1ccccc1", "CC(C)C"))


def moved(block, move):
    """The molfile with other positions, `move` of the old ones `[n, 3]`."""
    molecule = Chem.MolFromMolBlock(block, removeHs=False)
    where = move(molecule.GetConformer().GetPositions())
    molecule.GetConformer().SetPositions(numpy.ascontiguousarray(where, dtype=float))
    return tagged(Chem.MolToMolBlock(molecule), "3D")


def tagged(block, code):
    """The molfile with another dimension in its header."""
    lines = block.split("\n")
    lines[1] = f"     RDKit          {code}"
    return "\n".join(lines)


def drawing(smiles, code):
    molecule = Chem.MolFromSmiles(smiles)
    AllChem.Compute2DCoords(molecule)
    return tagged(Chem.MolToMolBlock(molecule), code)


def read(text, form="molfile", **options):
    return entries_of(Request(7, text, form, **options))


def fault(*arguments, **options):
    with pytest.raises(ValueError, match=r"\w") as caught:
        read(*arguments, **options)
    return str(caught.value)


# Positions


def put_together(positions):
    positions[1] = positions[0]
    return positions


def stretched(positions):
    positions[0] += (3.0, 0, 0)
    return positions


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (moved(ETHANOL, lambda p: 0 * p), "all atoms have the same position"),
        (moved(ETHANOL, lambda p: 0 * p + 3), "all atoms have the same position"),
        (moved(ETHANOL, put_together), "atoms 1 and 2 are 0.00 Angstrom apart"),
        (moved(ETHANOL, lambda p: p / 10), "positions that seem to be in nanometres; they must be in Angstrom"),
        (moved(ETHANOL, lambda p: p / 0.529177), "positions that seem to be in Bohr"),
        (moved(ETHANOL, lambda p: p * 100), "positions that seem to be in picometres"),
        (moved(ETHANOL, stretched), "the bond of atoms 1 and 2 has a length of"),
        (drawing("CC(C)C", "3D"), "a flat drawing in place of positions in 3D"),
        (drawing("CCCC", "3D"), "a flat drawing in place of positions in 3D"),
        (drawing("C1CCCCC1", "3D"), "a flat drawing in place of positions in 3D"),
        (drawing("CCO", "3D"), "a flat drawing in place of positions in 3D"),
        (drawing("OC(=O)c1ccccc1", "3D"), "a flat drawing in place of positions in 3D"),
    ],
)
def test_positions_that_no_molecule_has_are_refused_with_the_reason(block, said):
    assert fault(block).startswith(said)


def test_flat_molecules_are_no_drawings():
    flat = moved(BENZENE, lambda p: _in_plane(p))
    (entry,) = read(flat)
    assert entry.changes == ()
    assert entry.molecule.positions[:, 2] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("smiles", ["CCC", "CCO", "C1CC1", "O=C=O", "FC=C", "CN"])
def test_few_atoms_that_happen_to_lie_in_the_plane_are_no_drawing(smiles):
    """Without their hydrogens, small molecules are flat, and programs may put the plane at z = 0."""
    (entry,) = read(moved(molfile(smiles, hydrogens=False), _in_plane))
    assert entry.changes == ()


def _in_plane(positions):
    """Rotated into the plane z = 0, which benzene lies in to 0.01 Angstrom."""
    centred = positions - positions.mean(0)
    axes = numpy.linalg.svd(centred)[2]
    return (centred @ axes.T) * (1, 1, 0)


@pytest.mark.parametrize("code", ["3D", "2D", ""])
def test_positions_in_3d_are_used_whatever_the_header_says(code):
    (entry,) = read(tagged(ETHANOL, code))
    assert entry.changes == ()
    expected = Chem.MolFromMolBlock(ETHANOL, removeHs=False).GetConformer().GetPositions()
    numpy.testing.assert_allclose(entry.molecule.positions, expected, atol=1e-4)


@pytest.mark.parametrize(
    "block", [drawing("CCO", "2D"), drawing("CCO", ""), Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))]
)
def test_a_drawing_is_replaced_and_that_is_told(block):
    (entry,) = read(block)
    assert entry.changes == (conformers.GENERATED,)
    assert not geometry_fault(entry.molecule)
    assert numpy.ptp(entry.molecule.positions[:, 2]) > 0.5


def test_real_molecules_have_no_fault():
    for smiles in ("C", "N#N", "C#C", "O=C=O", "FF", "CS(=O)(=O)C", "C[Si](C)(C)Br", "OP(O)(O)=O", "CI", "B(O)O"):
        for hydrogens in (True, False):
            assert geometry_fault(conformer(smiles, hydrogens)) == "", smiles


def test_the_reader_and_the_writer_judge_alike():
    apart = by_hand("CO", [(0, 1, 1)], positions=[(0, 0, 0), (0, 0, 4.1)])
    assert geometry_fault(apart) == "the bond of atoms 1 and 2 has a length of 4.10 Angstrom"


# Isotopes, salts, reasons


def test_isotopes_are_told():
    (entry,) = read("[2H]OC([13CH3])C", "smiles")
    assert entry.changes == (conformers.ISOTOPES,)
    assert entry.identity == identity(Chem.MolFromSmiles("CC(C)O"))


def test_salts_are_left_out_or_lose_their_small_pieces():
    assert fault("CCC(=O)[O-].[Na+]", "smiles") == (
        "several unconnected pieces; `data.salts` largest uses the largest one"
    )
    (entry,) = read("[Na+].CCC(=O)[O-]", "smiles", salts="largest")
    assert entry.identity == identity(Chem.MolFromSmiles("CCC(=O)[O-]"))
    assert entry.changes == (conformers.LARGEST_PIECE,)
    with_water = Chem.MolToMolBlock(Chem.CombineMols(Chem.MolFromMolBlock(ETHANOL, removeHs=False), conformed("O")))
    (entry,) = read(with_water, salts="largest", max_atoms=3)
    assert entry.identity == identity(Chem.MolFromSmiles("CCO"))
    assert len(entry.molecule) == 9


def conformed(smiles):
    return Chem.MolFromMolBlock(molfile(smiles), removeHs=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no SMILES: the cell is empty"),
        ("C1CC", "not a SMILES: unclosed ring"),
        ("CCX", "not a SMILES: its syntax is wrong near character 3"),
        ("CC(C)(C)(C)C", "a wrong valence: atom 2 (C) has 5 bonds, more than it can have"),
        ("c1cccc1", "no Kekule form: the aromatic atoms 1, 2, 3, 4, 5 cannot have alternating single and double bonds"),
        ("cC", "no Kekule form: atom 1 is marked aromatic but lies in no ring"),
        ("[H][H]", "hydrogen atoms only"),
        ("C*", "atoms without an element"),
    ],
)
def test_the_reason_names_syntax_valence_or_aromatic_rings(text, said):
    assert fault(text, "smiles") == said


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("a\nb\n", "not a molfile: Counts line too short"),
        (ETHANOL[:200], "not a molfile: EOF hit while reading atoms"),
        (ETHANOL.replace("  1  2  1  0", "  1  2  3  0"), "a wrong valence: atom 1 (C) has 6 bonds"),
        (ETHANOL.replace("  1  2  1  0", "  1 92  1  0"), "not a molfile: Range Error"),
        (ETHANOL.replace("  9  8  0", "  0  0  0"), "no"),
        (
            ETHANOL.replace("  2  3  1  0", "  1  2  1  0"),
            "not a molfile: Pre-condition Violation: bond already exists",
        ),
        (None, "a record that is too long"),
    ],
)
def test_faults_of_molfiles_have_a_reason(block, said):
    assert fault(block).startswith(said)


# Formats


def write(path, text, encoding="utf-8"):
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def cells(text, column="smiles"):
    return [cell for _, cell in smiles_cells(text.splitlines(), column, "the file")[1]]


@pytest.mark.parametrize(
    "text",
    [
        "CCO\nCCN\n",
        "CCO alcohol\nCCN amine, primary\n",
        "alcohol CCO\namine CCN\n",
        "smiles,id\nCCO,1\nCCN,2\n",
        "smiles;id\nCCO;1\nCCN;2\n",
        "id\tSmiles\n1\tCCO\n2\tCCN\n",
        'sep=;\n"ChEMBL ID";"Canonical Smiles"\n"x; y";"CCO"\n"z";"CCN"\n',
        '"CCO","a ""quoted"" name"\n"CCN","b"\n',
        '"CCO" "a"\n"CCN" "b"\n',
        "# a comment\n\n#smiles name\nCCO a\n\nCCN b\n",
        "structure,name\nCCO,a\nCCN,b\n",
        'name,smiles\n"two\nlines",CCO\n,CCN\n',
        "CCO |r| a\nCCN |&1:1| b\n",
    ],
)
def test_tables_and_lists_of_smiles_are_read_in_every_dialect(text):
    assert cells(text) == ["CCO", "CCN"]


def test_line_numbers_are_those_of_the_file():
    text = "# comment\n\nname,smiles\na,CCO\n\n# b\nc,CCN\n"
    assert list(smiles_cells(text.splitlines(), "smiles", "")[1]) == [(4, "CCO"), (7, "CCN")]


def test_what_was_found_by_the_content_is_told():
    def note(text):
        return smiles_cells(text.splitlines(), "smiles", "")[0].note()

    assert note("CCO a\nCCN b") == note("id,smiles\n1,CCO") == ""
    assert note("a CCO\nb CCN") == "column 2 is taken as the SMILES, because of its content"
    assert note("structure,name\nCCO,a").startswith("the first row is taken as a header (structure, name), column 1 is")


def test_a_missing_column_is_named_with_the_nearest_one():
    with pytest.raises(UserError, match=r"f has no column 'smile_s' \(did you mean 'smiles'\?\)"):
        smiles_cells(["id,smiles", "1,CCO"], "smile_s", "f")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_text_is_read_in_every_encoding_with_every_line_end(tmp_path, encoding, end, packed):
    path = write(tmp_path / f"a.txt{packed}", end.join(["CCO naïve", "CCN", ""]), encoding)
    with opened(path) as (text, done):
        assert list(lines_of(text)) == ["CCO naïve", "CCN"]
        assert done() == 1.0


@pytest.mark.parametrize("name", ["a.sdf", "a.sd", "a.mol", "a.sdf.gz", "a.sd.gz"])
@pytest.mark.parametrize("end", ["\n", "\r"])
def test_records_are_those_of_the_file(tmp_path, name, end):
    text = f"{ETHANOL}> <a>\n1\n\n$$$$\n{BENZENE}$$$$\n\n$$$$\n{BUTANE}".replace("\n", end)
    with opened(write(tmp_path / name, text)) as (stream, _):
        found = list(sdf_records(lines_of(stream)))
    assert [number for number, _ in found] == [1, 2, 4]
    names = [Chem.MolToSmiles(Chem.MolFromMolBlock(record)) for _, record in found]
    assert names == ["CCO", "c1ccccc1", "CC(C)C"]


MOL2 = """# made by hand
@<TRIPOS>MOLECULE
{name}
 3 2
SMALL
NO_CHARGES
@<TRIPOS>ATOM
  1 C1 0.0 0.0 0.0 C.1
  2 O1 0.0 0.0 1.2 O.2
  3 O2 0.0 0.0 {z} O.2
@<TRIPOS>BOND
  1 1 2 2
  2 1 3 2
"""


@pytest.fixture
def in_this_process(monkeypatch):
    """No worker processes, whose start takes seconds."""

    def map_each(function, portions, seconds, workers):
        return ((item, result) for portion in portions for item, result in zip(portion, function(portion), strict=True))

    monkeypatch.setattr(files, "map_each", map_each)
    monkeypatch.setattr(samples, "map_each", map_each)


def test_a_file_is_read_by_a_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "processors", lambda: 1)
    path = write(tmp_path / "own.sdf", f"{ETHANOL}$$$$\nbroken\n$$$$\n")
    found = files.read_sdf(FileOptions(path=str(path)))
    assert (found.sources.tolist(), [number for number, _ in found.left_out]) == ([1], [2])


@pytest.mark.usefixtures("in_this_process")
def test_every_kind_of_file_is_found_and_read(tmp_path):
    """One file of each; dialects are tested above."""
    three = write(tmp_path / "own.sd.gz", f"{ETHANOL}$$$$\n{BENZENE}$$$$\nbroken\n$$$$\n{drawing('CCN', '2D')}$$$$\n")
    found = files.read_sdf(FileOptions(path=str(three)))
    assert found.sources.tolist() == [1, 2, 4]
    assert found.left_out == ((3, "not a molfile: Counts line too short: '' on line4"),)
    assert found.changed == ((4, conformers.GENERATED),)
    two = write(tmp_path / "own.mol2", MOL2.format(name="a", z=-1.2) + MOL2.format(name="b", z=-9.0))
    found = files.read_sdf(FileOptions(path=str(two)))
    assert found.sources.tolist() == [1]
    assert found.identities.tolist() == [identity(Chem.MolFromSmiles("O=C=O"))]
    assert "has a length of 9.00 Angstrom" in found.left_out[0][1]
    listed = write(tmp_path / "own.smi.gz", "ethanol CCO\nwater O\nbad CCX\n", "utf-16")
    found = files.read_smiles(SmilesOptions(path=str(listed)))
    assert found.sources.tolist() == [1, 2]
    assert found.notes == ("own.smi.gz: column 2 is taken as the SMILES, because of its content",)


def test_a_file_for_the_other_data_set_is_told(tmp_path):
    path = write(tmp_path / "own.sdf", ETHANOL)
    with pytest.raises(UserError, match="use the data set 'sdf' for it"):
        files.read_smiles(SmilesOptions(path=str(path)))


# Hostile files


def test_a_hundred_iron_atoms_that_are_all_bonded_are_refused_before_rdkit_sees_them():
    atoms = [f"M  V30 {i} Fe {i} {i * i % 7} {i % 5} 0" for i in range(1, 101)]
    pairs = [(i, j) for i in range(1, 101) for j in range(1, i)]
    bonds = [f"M  V30 {k} 1 {i} {j}" for k, (i, j) in enumerate(pairs, 1)]
    counts = f"M  V30 COUNTS 100 {len(bonds)} 0 0 0"
    head = ["iron", "", "", "  0  0  0     0  0            999 V3000", "M  V30 BEGIN CTAB", counts, "M  V30 BEGIN ATOM"]
    middle, end = ["M  V30 END ATOM", "M  V30 BEGIN BOND"], ["M  V30 END BOND", "M  V30 END CTAB", "M  END", ""]
    block = "\n".join([*head, *atoms, *middle, *bonds, *end])
    assert fault(block) == "4950 bonds among 100 atoms"


@pytest.mark.parametrize("content", [b"\0", b"x", b"x\n", b"$$$$\n", b"x\n$$$$\n"])
def test_a_small_archive_that_decodes_to_much_is_refused(tmp_path, content, monkeypatch):
    monkeypatch.setattr("diffcore.system.bounded.LEAST", 2**20)
    path = tmp_path / "bomb.sdf.gz"
    path.write_bytes(gzip.compress(content * (2**22 // len(content))))

    def longest():
        with opened(path) as (text, _):
            return max(len(record or "") for _, record in sdf_records(lines_of(text)))

    with pytest.raises(UserError, match=r"bomb.sdf.gz decodes to more than 1,048,576 bytes"):
        longest()


def test_records_and_lines_that_are_too_long_are_not_kept():
    lines = ["short", "$$$$", *["x" * 2**18] * 40, "$$$$", "short"]
    assert list(sdf_records(lines)) == [(1, "short\n"), (2, None), (3, "short\n")]
    text = io.StringIO("x" * (3 * LONGEST_LINE))
    assert [len(line) for line in lines_of(text)] == [LONGEST_LINE] * 3


def test_damaged_bytes_never_end_in_a_traceback(tmp_path):
    """Each of many damaged molfiles and SMILES is an entry or has a reason."""
    draw = random.Random(0)
    outcomes = []

    def outcome(text, form):
        try:
            return "entry" * len(read(text, form, max_atoms=30))
        except ValueError as error:
            return str(error)

    for source in (ETHANOL, tagged(BENZENE, ""), "CC(=O)Oc1ccccc1C(=O)O"):
        for _ in range(150):
            text = list(source)
            for _ in range(draw.randint(1, 4)):
                where = draw.randrange(len(text))
                text[where] = draw.choice([*"0123456789 -.\nCNOMVEDH()[]=#@", "\0", "é", ""])
            outcomes.append(outcome("".join(text), "smiles" if source[:2] == "CC" else "molfile"))
    assert all(outcomes)
    assert 20 < outcomes.count("entry") < len(outcomes) - 20
    for cut in range(0, len(ETHANOL), 25):
        assert fault(ETHANOL[:cut])


def test_a_damaged_gz_file_is_refused_in_a_line(tmp_path):
    path = write(tmp_path / "own.smi.gz", "CCO\n" * 1000)

    def whole():
        with opened(path) as (text, _):
            return list(lines_of(text))

    for content in (path.read_bytes()[:-9], b"\x1f\x8b" + bytes(50), b"not gz"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"own.smi.gz cannot be read: .*; it may be damaged") as caught:
            whole()
        assert "\n" not in str(caught.value)


def test_messages_of_rdkit_are_silent_again_afterwards(capfd):
    for _ in range(2):
        with pytest.raises(ValueError, match="unclosed ring"):
            molecule_of_smiles("C1CC")
    with pytest.raises(ValueError, match="not a molfile"):
        molecule_of_molfile("x")
    Chem.MolFromSmiles("C1CC")
    out = capfd.readouterr()
    assert out.out == out.err == ""


# Samples of any program


def read_back(tmp_path, molecules, hydrogens=False):
    path = tmp_path / "samples.sdf"
    path.write_text("".join(sdf(record(molecule, hydrogens), str(k), {}) for k, molecule in enumerate(molecules)))
    return read_molecules(path, hydrogens)


@pytest.mark.usefixtures("in_this_process")
def test_samples_come_back_as_they_were_written(tmp_path):
    """Also those that are not valid, which the data sets leave out; nothing is repaired on the way."""
    crowded = by_hand(["C", *"FFFFF"], [(0, k, 1) for k in range(1, 6)])
    pieces = by_hand(["C", "O", "N"], [(0, 1, 1)])
    whole = [conformer("CC(=O)[O-]", False), crowded, pieces, conformer("c1ccoc1", False)]
    found = read_back(tmp_path, whole)
    for given, read in zip(whole, found, strict=True):
        assert read.numbers.tolist() == given.numbers.tolist()
        assert read.charges.tolist() == given.charges.tolist()
        assert abs(read.positions - given.positions).max() < 1e-4
        assert (metrics.validated(read, False) is None) == (metrics.validated(given, False) is None)
    radical = star("C", "H", 3)
    (found,) = read_back(tmp_path, [radical], hydrogens=True)
    assert len(found) == 4
    assert metrics.is_radical(metrics.validated(found, True))


@pytest.mark.usefixtures("in_this_process")
def test_records_that_cannot_be_read_are_not_valid_and_drawings_are_left_out(tmp_path, caplog):
    good = sdf(record(conformer("CCO", False), False), "1", {})
    drawing = Chem.MolFromSmiles("CCO")
    AllChem.Compute2DCoords(drawing)
    path = tmp_path / "some.sdf"
    path.write_text(f"{good}nonsense\nof\nall\nkinds\n$$$$\n{Chem.MolToMolBlock(drawing)}$$$$\n")
    with caplog.at_level(logging.INFO):
        found = read_molecules(path, False)
    assert [len(molecule) for molecule in found] == [3, 0]
    assert "1 of 3 molecules are left out: no positions in 3D (record 3)" in caplog.text
    assert "1 of 2 molecules are not valid: not a molfile" in caplog.text
    path.write_text(f"{Chem.MolToMolBlock(drawing)}$$$$\n")
    with pytest.raises(UserError, match="has no molecules that can be judged: 1 of 1"):
        read_molecules(path, False)


@pytest.mark.usefixtures("in_this_process")
def test_atoms_without_bonds_get_those_of_edm_s_table(tmp_path, caplog):
    """XYZ files, as EDM and its successors write them."""
    ethanol = conformer("CCO")
    lines = [
        f"{Chem.GetPeriodicTable().GetElementSymbol(int(number))} {x} {y} {z}"
        for number, (x, y, z) in zip(ethanol.numbers, ethanol.positions, strict=True)
    ]
    path = tmp_path / "ethanol.xyz"
    path.write_text("\n".join(["9", "a comment", *lines, "", "1", "", "C 0 0"]))
    whole, broken = read_molecules(path, True)
    assert (whole.bonds == ethanol.bonds).all()
    assert len(broken) == 0
    with caplog.at_level(logging.WARNING):
        heavy, _ = read_molecules(path, False)
    assert heavy.numbers.tolist() == [6, 6, 8]
    assert "give `data.hydrogens`" in caplog.text
    path.write_text("not a number\n")
    with pytest.raises(UserError, match="is not an XYZ file: 'not a number'"):
        read_molecules(path, True)


# Interrupted reading


def test_an_interrupted_reading_goes_on_and_gives_what_an_unbroken_one_gives(tmp_path, monkeypatch):
    """Lines in blocks of two: after an interruption at the sixth, two blocks are known, and the others are read."""
    path, handled = tmp_path / "some.smi", []
    path.write_text("C\nCC\nC(\nCCC\nCCO\nCCN\nCCF\n")
    stop_at = 6

    def map_each(function, portions, seconds, workers):
        for portion in portions:
            for item, result in zip(portion, function(portion), strict=True):
                if item.source == stop_at:
                    raise KeyboardInterrupt
                handled.append(item.source)
                yield item, result

    monkeypatch.setattr(files, "map_each", map_each)
    monkeypatch.setattr(blocks, "BLOCK", 2)
    options = SmilesOptions(path=str(path), relax=False)
    monkeypatch.setenv("DIFFCORE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(KeyboardInterrupt):
        files.read_smiles(options)
    assert handled == [1, 2, 3, 4, 5]
    stop_at = 0
    handled.clear()
    found = files.read_smiles(options)
    assert handled == [5, 6, 7]
    assert found.sources.tolist() == [1, 2, 4, 5, 6, 7]
    assert [number for number, _ in found.left_out] == [3]
    assert len(list((tmp_path / "cache" / "molecules").iterdir())) == 1  # the blocks are no longer needed
    monkeypatch.setenv("DIFFCORE_CACHE", str(tmp_path / "other"))
    unbroken = files.read_smiles(options)
    for name, array in unbroken.collection.arrays().items():
        assert numpy.array_equal(array, found.collection.arrays()[name]), name
    handled.clear()
    few = files.read_smiles(options.model_copy(update={"limit": 4}))
    assert (few.sources.tolist(), handled) == ([1, 2, 4], [1, 2, 3, 4])
    handled.clear()
    more = files.read_smiles(options.model_copy(update={"limit": 6}))  # goes on after the blocks of the first four
    assert (more.sources.tolist(), handled) == ([1, 2, 4, 5, 6], [3, 4, 5, 6])


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("limit", "shares"), [(None, [0.1] * 4), (4, [0.25, 0.5, 0.75, 1]), (100, [0.1] * 4)])
def test_progress_is_towards_the_limit_or_the_end_of_the_file(tmp_path, monkeypatch, limit, shares):
    """Here a tenth of the file has been read when its first four molecules have."""
    found, read = [], files.opened

    @contextmanager
    def opened(path):
        with read(path) as (text, _):
            yield text, lambda: 0.1

    monkeypatch.setattr(files, "opened", opened)
    monkeypatch.setattr(files, "bar", lambda title: nullcontext(lambda share, text: found.append(share)))
    (tmp_path / "four.smi").write_text("C\nCC\nCCC\nCCO\n")
    files.read_smiles(SmilesOptions(path=str(tmp_path / "four.smi"), relax=False, limit=limit))
    assert found == shares


# Values of the file as targets


TAGGED = {ETHANOL: "1.5", BENZENE: "not measured", BUTANE: "-2e1"}


@pytest.mark.usefixtures("in_this_process")
def test_data_fields_of_records_are_targets(tmp_path):
    path = tmp_path / "assay.sdf"
    path.write_text("".join(f"{block}>  <pIC50>\n{value}\n\n$$$$\n" for block, value in TAGGED.items()))
    data = datasets.sdf(FileOptions(path=str(path), properties=("pic50", "logp")))
    assert data.examples["properties"][[0, 2], 0].tolist() == [1.5, -20]
    assert data.examples["properties"][1, 0].isnan()
    assert "without a number in 'pic50'" in str(data.ledger)
    own, logp = data.facts.properties
    assert (own.name, own.unit, own.is_dft, own.mean) == ("pic50", "", False, (1.5 - 20) / 2)
    assert logp.name == "logp"
    for name, said in (
        ("pIC5", r"has no data field 'pIC5', and unknown property 'pIC5'"),
        ("gap", "has no data field 'gap'"),
    ):
        with pytest.raises(UserError, match=said):
            datasets.sdf(FileOptions(path=str(path), properties=(name,)))


@pytest.mark.usefixtures("in_this_process")
def test_columns_of_tables_are_targets(tmp_path):
    path = tmp_path / "assay.csv"
    path.write_text("smiles,Yield,gap\nCCO,0.25,3\nCCN,,4\nCCC,1e400,5\n")
    data = datasets.smiles(SmilesOptions(path=str(path), properties=("Yield", "gap"), relax=False))
    assert data.examples["properties"][:, 1].tolist() == [3, 4, 5]
    assert data.examples["properties"][0, 0] == 0.25
    assert data.examples["properties"][1:, 0].isnan().all()
    assert [item.is_dft for item in data.facts.properties] == [False, False]
