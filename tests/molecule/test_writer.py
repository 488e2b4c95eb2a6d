import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy
import pytest
from PIL import Image
from rdkit import Chem
from rdkit.Chem import AllChem, Crippen, Descriptors, rdMolDescriptors
from rdkit.Chem.QED import qed

from diffcore.evaluation import viewer
from diffcore.evaluation.page import page
from diffcore_molecule.chemistry.molecules import ORDERS, Molecule, from_rdkit, identity
from diffcore_molecule.data.conformers import Request, entries_of
from diffcore_molecule.evaluation import metrics
from diffcore_molecule.output import depiction
from diffcore_molecule.output.depiction import sheet, wrapped
from diffcore_molecule.output.records import record, records
from diffcore_molecule.output.scenes import CPK, principal, scene
from diffcore_molecule.output.writer import MoleculeWriter, legend, sdf

SMILES = [
    "CCO",
    "c1ccccc1",
    "C1CC1C#N",
    "CC(=O)[O-]",
    "C[N+](C)(C)C",
    "NC(=O)c1ccc[nH]1",
    "N#CC#C",
    "C[C@H](O)C=O",
    "C[C@@H](O)C=O",
    "FC(F)(F)C#N",
    "C/C=C/C",
    "C/C=C\\C",
    "O=[N+]([O-])c1ccccc1",
    "CS(=O)(=O)C",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "C[Si](C)(C)C",
    "[O-][n+]1ccccc1",
    "C",
]


def embedded(smiles, hydrogens=False):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    return from_rdkit(mol, hydrogens)


def made(numbers, bonds, charges=None):
    n = len(numbers)
    orders = numpy.zeros((n, n), numpy.uint8)
    for first, second, order in bonds:
        orders[first, second] = orders[second, first] = order
    positions = numpy.random.default_rng(n).normal(size=(n, 3)).astype(numpy.float32)
    return Molecule(numpy.array(numbers, numpy.uint8), numpy.array(charges or [0] * n, numpy.int8), orders, positions)


PENTAVALENT = made([6, 9, 9, 9, 9, 9], [(0, k, 1) for k in range(1, 6)])
PIECES = made([6, 8, 6, 7], [(0, 1, 1), (2, 3, 3)])
NOTHING = made([], [])
CROWDED = made([6] * 100, [(i, j, 1 + (i + j) % 3) for i in range(100) for j in range(i)])
CHARGED = made([6, 6, 8, 7, 16], [(0, 1, 3), (1, 2, 2), (2, 3, 1), (3, 0, 2), (3, 4, 3)], [0, 1, -1, 0, 0])
APART = Molecule(CROWDED.numbers, CROWDED.charges, numpy.zeros_like(CROWDED.bonds), CROWDED.positions)
COLLAPSED = Molecule(CHARGED.numbers, CHARGED.charges, CHARGED.bonds, numpy.zeros_like(CHARGED.positions))
STRIPPED = made([3, 6], [(0, 1, 1)], [4, 0])
BROKEN = [PENTAVALENT, PIECES, NOTHING, CROWDED, CHARGED, STRIPPED]


@pytest.fixture(scope="module")
def molecules():
    return [embedded(smiles) for smiles in SMILES]


def writer(hydrogens=False):
    """The writer of a model with explicit or implicit hydrogens."""
    facts = SimpleNamespace(hydrogens=hydrogens, measured=(), joint=(), described=True)
    return MoleculeWriter(SimpleNamespace(facts=facts))


def read(path):
    return list(Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False))


def assert_same(mol, molecule):
    assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == molecule.numbers.tolist()
    assert [atom.GetFormalCharge() for atom in mol.GetAtoms()] == molecule.charges.tolist()
    bonds = numpy.zeros_like(molecule.bonds)
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        bonds[ends] = bonds[ends[::-1]] = ORDERS.index(bond.GetBondType())
    assert numpy.array_equal(bonds, molecule.bonds)
    if len(molecule):
        assert numpy.abs(mol.GetConformer().GetPositions() - molecule.positions).max() < 1e-4


# SDF


@pytest.mark.parametrize("hydrogens", [False, True])
def test_records_contain_the_generated_samples(tmp_path, hydrogens):
    samples = [embedded(smiles, hydrogens) for smiles in SMILES] + BROKEN
    path = tmp_path / "all.sdf"
    writer(hydrogens).together(samples, path, 10)
    found = read(path)
    assert len(found) == len(samples)
    for number, (mol, sample) in enumerate(zip(found, samples, strict=True), 1):
        assert mol.GetProp("_Name") == str(number)
        assert_same(mol, APART if sample is CROWDED else sample)
    assert [mol.GetProp("VALID") for mol in found] == ["1"] * len(SMILES) + ["0"] * len(BROKEN)


@pytest.mark.parametrize("ending", [".sdf", ".smi"])
def test_batches_give_the_file_of_all_samples(tmp_path, ending):
    samples = [embedded(smiles, False) for smiles in SMILES] + BROKEN
    captions = [{"logp": f"{k}"} for k in range(len(samples))]
    writer().together(samples, tmp_path / f"all{ending}", 10, captions)
    batches = [(samples[:4], captions[:4]), (samples[4:], captions[4:])]
    writer().stream(batches, tmp_path / f"batches{ending}")
    without_dates = [
        [line for line in (tmp_path / f"{name}{ending}").read_text().splitlines() if "RDKit" not in line]
        for name in ("all", "batches")
    ]
    assert without_dates[0] == without_dates[1] != []


@pytest.mark.parametrize("hydrogens", [False, True])
def test_sanitised_records_have_the_molecules_and_their_stereochemistry(tmp_path, hydrogens):
    path = tmp_path / "all.sdf"
    writer(hydrogens).together([embedded(smiles, hydrogens) for smiles in SMILES], path, 10)
    for mol, smiles in zip(Chem.SDMolSupplier(str(path)), SMILES, strict=True):
        expected = Chem.CanonSmiles(smiles)
        assert Chem.MolToSmiles(mol) == expected
        assert mol.GetProp("SMILES") == expected


def test_data_fields_are_rdkit_s_properties(tmp_path, molecules):
    path = tmp_path / "all.sdf"
    writer().together(molecules, path, 10)
    functions = {"logp": Crippen.MolLogP, "tpsa": rdMolDescriptors.CalcTPSA, "qed": qed, "weight": Descriptors.MolWt}
    for mol, smiles in zip(read(path), SMILES, strict=True):
        plain = Chem.MolFromSmiles(smiles)
        for name, function in functions.items():
            assert float(mol.GetProp(name)) == pytest.approx(function(plain), rel=1e-5, abs=1e-5)
        assert not mol.HasProp("REASON")


def test_records_have_requested_and_obtained_values(tmp_path, molecules):
    asked = [
        {"logp": f"{k}.5", "rings": "2", "mu": "1.2 D", "label": "line\n\nline $$$$"} for k in range(len(molecules))
    ]
    path = tmp_path / "all.sdf"
    writer().together(molecules, path, 10, asked)
    found = read(path)
    assert len(found) == len(molecules)
    for k, mol in enumerate(found):
        assert mol.GetProp("asked_logp") == f"{k}.5"
        assert mol.GetProp("asked_mu") == "1.2 D"
        assert mol.GetProp("asked_label") == "line line $$$$"
        assert float(mol.GetProp("rings")) == rdMolDescriptors.CalcNumRings(Chem.MolFromSmiles(SMILES[k]))
        assert not mol.HasProp("mu")  # this would need quantum chemistry
    with pytest.raises(ValueError):
        writer().together(molecules, path, 10, asked[1:])


def test_a_summary_compares_requested_values_with_those_of_valid_samples(molecules):
    samples = [*molecules[:3], *BROKEN]
    values = numpy.array([Crippen.MolLogP(Chem.MolFromSmiles(smiles)) for smiles in SMILES[:3]])
    first, second, third = writer().summary(samples, [{"logp": "0.5", "mu": "2", "rings": str(k)} for k in range(9)])
    assert first == "3 of 9 samples are valid"
    assert second == (
        f"logp: asked 0.5, obtained {values.mean():.4g} +- {values.std():.3g} (mean and standard deviation "
        f"of 3 valid samples of 9), mean absolute error {abs(values - 0.5).mean():.3g}"
    )
    assert third.startswith("rings: asked 0 to 2, obtained 0.6667 +- 0.471 ")
    assert third.endswith("mean absolute error 0.333")  # rings are 0, 1, 1
    assert writer().summary(BROKEN, [{"logp": "1"}] * 6) == ["0 of 6 samples are valid"]
    assert writer().summary(samples) == ["3 of 9 samples are valid"]


def test_records_of_invalid_samples_have_a_reason():
    faults = [one.fault for one in records(BROKEN, False)]
    assert faults[0] == "a wrong valence: atom 1 (C) has 5 bonds, more than it can have"
    assert faults[1:4] == ["2 pieces", "no atoms", "4950 bonds among 100 atoms"]
    assert record(STRIPPED, False).fault == "an atom of Li has a charge of +4"
    assert record(COLLAPSED, False).fault == "bonded atoms have the same position"
    assert all(one.smiles == "" for one in records([PENTAVALENT, CROWDED, CHARGED], False))
    assert record(PIECES, False).smiles == "C#N.CO"
    assert not any(one.properties for one in records(BROKEN, False))


def test_files_and_metrics_agree_on_validity(molecules):
    for molecule in [*molecules, *BROKEN, COLLAPSED]:
        assert (metrics.validated(molecule, False) is not None) == record(molecule, False).valid


def test_what_the_writer_says_of_positions_the_reader_says_too(molecules):
    """The file of valid samples: the reader uses those without GEOMETRY, and leaves out the others for this reason."""
    stretched = replace(molecules[0], positions=3 * molecules[0].positions)
    samples = [molecules[0], stretched]
    sound, wrong = (sdf(one, "x", {}) for one in records(samples, False))
    assert "GEOMETRY" not in sound
    reason = wrong.split(">  <GEOMETRY>\n")[1].split("\n")[0]
    assert reason.startswith("the bond of atoms 1 and 2 has a length of ")
    (entry,) = entries_of(Request(1, sound, "molfile"))
    assert entry.identity == identity(Chem.MolFromSmiles(SMILES[0]))
    with pytest.raises(ValueError, match=reason):
        entries_of(Request(2, wrong, "molfile"))
    (line,) = writer().summary(samples)
    assert line == f"2 of 2 samples are valid, but 1 of them have impossible positions, such as: {reason}"


def test_names_of_properties_cannot_break_a_file_nor_hide_its_own_fields(molecules):
    names = ["VALID", "a>b\n<c>", "", "asked_VALID", "x" * 250, "猫", "$$$$"]
    one = replace(records(molecules[:1], False)[0], properties=dict.fromkeys(names, 1.5))
    text = sdf(one, "x", {"VALID": "2", "SMILES": "3"})
    supplier = Chem.SDMolSupplier()
    supplier.SetData(text)
    (mol,) = supplier
    found = mol.GetPropsAsDict()
    assert found["VALID"] == 1
    assert found["SMILES"] == SMILES[0]
    assert found["VALID_"] == found["asked_VALID"] == found["a_b__c_"] == found["unnamed"] == found["$$$$"] == 1.5
    assert found["asked_VALID_"] == 2
    assert found["asked_SMILES"] == 3
    assert len(found) == 2 + len(names) + 2


def test_unsafe_bonds_are_written_as_text(tmp_path):
    path = tmp_path / "all.sdf"
    writer().together([CROWDED], path, 1)
    (mol,) = read(path)
    assert mol.GetNumBonds() == 0
    bonds = numpy.zeros_like(CROWDED.bonds)
    for line in mol.GetProp("BONDS").splitlines():
        first, second, order = map(int, line.split())
        bonds[first - 1, second - 1] = bonds[second - 1, first - 1] = order
    assert numpy.array_equal(bonds, CROWDED.bonds)


def test_missing_hydrogens_stay_missing(tmp_path):
    """A carbon with three explicit hydrogens is a radical: readers must not add a hydrogen."""
    radical = made([6, 1, 1, 1], [(0, 1, 1), (0, 2, 1), (0, 3, 1)])
    alone = made([6], [])
    writer(hydrogens=True).together([radical, alone], tmp_path / "explicit.sdf", 2)
    explicit = list(Chem.SDMolSupplier(str(tmp_path / "explicit.sdf")))
    assert [Chem.MolToSmiles(mol) for mol in explicit] == ["[CH3]", "[C]"]
    writer(hydrogens=False).together([alone], tmp_path / "implicit.sdf", 2)
    assert [Chem.MolToSmiles(mol) for mol in Chem.SDMolSupplier(str(tmp_path / "implicit.sdf"))] == ["C"]


def test_positions_that_are_very_large_or_not_finite(tmp_path, molecules):
    numbers, charges, bonds = molecules[0].numbers, molecules[0].charges, molecules[0].bonds
    far = Molecule(numbers, charges, bonds, molecules[0].positions * 1e5)
    broken = Molecule(numbers, charges, bonds, molecules[0].positions * numpy.array([1, numpy.nan, numpy.inf]))
    path = tmp_path / "all.sdf"
    writer().together([far, broken], path, 2)
    first, second = read(path)
    assert numpy.allclose(first.GetConformer().GetPositions(), far.positions, rtol=1e-5)
    assert first.GetProp("VALID") == "1"
    assert (second.GetProp("VALID"), second.GetProp("REASON")) == ("0", "positions that are not finite")
    assert (second.GetConformer().GetPositions()[:, 1:] == 0).all()
    writer().together([far, broken], tmp_path / "all.png", 2)
    writer().html([far, broken], 2)


def test_each_sample_has_a_file(tmp_path, molecules):
    samples = [molecules[0], PENTAVALENT, molecules[7]]
    paths = writer().each(samples, tmp_path, ["a", "b", "c"], [{"logp": "1"}] * 3)
    assert [path.name for path in paths] == ["a.sdf", "b.sdf", "c.sdf"]
    for path, sample in zip(paths, samples, strict=True):
        (mol,) = read(path)
        assert mol.GetProp("_Name") == path.stem
        assert mol.GetProp("asked_logp") == "1"
        assert_same(mol, sample)


# SMILES


def test_smiles_are_those_of_the_valid_samples_with_their_numbers(tmp_path, molecules):
    path = tmp_path / "all.smi"
    writer().together([*BROKEN, *molecules], path, 10)
    supplier = Chem.SmilesMolSupplier(str(path), titleLine=False)
    found = [supplier[k] for k in range(len(supplier))]
    assert [mol.GetProp("_Name") for mol in found] == [str(k) for k in range(7, 7 + len(SMILES))]
    assert [Chem.MolToSmiles(mol) for mol in found] == [Chem.CanonSmiles(smiles) for smiles in SMILES]


# Pictures


def test_a_sheet_has_a_tile_for_every_sample(tmp_path, molecules):
    samples = [*molecules[:9], *BROKEN]
    path = tmp_path / "all.png"
    writer().together(samples, path, 5)
    pixels = numpy.asarray(Image.open(path).convert("RGB")).astype(int)
    width = depiction.TILE[0]
    height = pixels.shape[0] // 3
    assert pixels.shape[:2] == (3 * height, 5 * width)
    tiles = pixels.reshape(3, height, 5, width, 3).swapaxes(1, 2).reshape(15, height, width, 3)
    assert [bool((tile < 255).any()) for tile in tiles] == [True] * 15
    saturation = [int((tile.max(-1) - tile.min(-1)).max()) for tile in tiles]
    assert saturation[0] > 100  # the oxygen is red
    assert saturation[9:15] == [0] * 6  # invalid samples are grey


def test_a_legend_has_requested_and_obtained_values(molecules):
    one = record(molecules[0], False, ["logp"])
    assert legend(one, {"logp": "2.5", "mu": "1"}) == "CCO\nlogp: asked 2.5, got -0.0014\nmu: asked 1"
    assert legend(record(PIECES, False), {"logp": "2.5"}) == "not valid\n2 pieces\nlogp: asked 2.5"


def test_legends_are_wrapped():
    assert wrapped("one two three\nfour", 7, len) == ["one two", "three", "four"]
    assert wrapped("C" * 17, 7, len) == ["CCCCCCC", "CCCCCCC", "CCC"]
    assert wrapped("", 7, len) == [""]
    assert all(len(line) <= 9 for line in wrapped("Explicit valence for atom # 0 C, 19, is greater", 9, len))


def test_a_sample_without_a_layout_has_a_tile(monkeypatch, molecules):
    def fail(*arguments, **keywords):
        raise RuntimeError("no layout")

    monkeypatch.setattr(depiction.rdDepictor, "Compute2DCoords", fail)
    assert sheet(records([molecules[0]], False), ["a"], 1).getextrema()[0][0] < 100


def test_without_the_libraries_that_rdkit_draws_with_sheets_have_legends(monkeypatch, caplog, molecules):
    """As in a container image without the X window system: `import rdMolDraw2D` fails there."""

    def missing(name):
        raise ImportError("libXrender.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(depiction, "import_module", missing)
    depiction._rdkit_drawing.cache_clear()
    try:
        shown = record(molecules[0], False)
        tile = numpy.asarray(sheet([shown], ["CCO"], 1).convert("L"))
        assert (tile[: depiction.TILE[1]] == 255).all()
        assert (tile[depiction.TILE[1] :] < 128).any()
        assert "apt install libxrender1" in caplog.text
        picture = ElementTree.fromstring(depiction.drawing(shown, 100, 100, vector=True))
        assert "libXrender" in "".join(picture.itertext())
    finally:
        depiction._rdkit_drawing.cache_clear()


# The report


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_the_report_shows_every_sample_in_2d_and_3d(molecules):
    samples = [*molecules, *BROKEN] * 2 + molecules[:2]
    assert len(samples) == 50
    asked = [{"logp": '<script>alert("2.5")</script>'}] * 50
    text = page("molecules", [("Samples", writer().html(samples, 10, asked)), ("Way", writer().html(samples[:10], 10))])
    elements = Elements(text)
    assert len(elements.named("canvas")) == len(elements.named("img")) == 60
    assert len(elements.named("script")) == 1
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in elements.named("img"))
    assert not re.search(r"https?:", text)
    assert len(text) < 1_500_000
    for image in elements.named("img"):
        drawn = base64.b64decode(image["src"].split(",")[1]).decode()
        assert not re.search(r"<script|href=|<image", drawn)
    assert [canvas["aria-label"] for canvas in elements.named("canvas")][18].startswith("19, not valid")


def test_scenes_have_the_colours_of_jmol_and_the_bonds_of_the_molecule():
    molecule = embedded("FC(Cl)=O", True)
    balls = scene(molecule, "words")
    assert [balls.colours[k] for k in range(4)] == ["#90e050", "#909090", "#1ff01f", "#ff0d0d"]
    assert sorted((s.start, s.end, s.lines) for s in balls.sticks) == [(0, 1, 1), (1, 2, 1), (1, 3, 2)]
    carbon, chlorine = Chem.GetPeriodicTable().GetRcovalent(6), Chem.GetPeriodicTable().GetRcovalent(17)
    assert balls.radii[2] / balls.radii[1] == pytest.approx(chlorine / carbon)
    assert CPK[1] == "#ffffff"
    assert all(len(colour) == 7 for colour in CPK.values())


def test_the_scenes_of_a_trajectory_have_the_rotation_of_its_end(monkeypatch, molecules):
    """Three states with equal steps between them have equal steps in the scenes too."""
    shown = []
    monkeypatch.setattr(viewer, "html", lambda scenes, columns: shown.extend(scenes) or "")
    ends = [molecules[5], molecules[13]]
    step = numpy.random.default_rng(0).normal(size=(2, 30, 3))
    trajectory = []
    for k, end in enumerate(ends):
        positions = [end.positions + weight * step[k, : len(end)] for weight in (2.0, 1.0, 0.0)]
        trajectory += [replace(end, positions=p.astype(numpy.float32)) for p in positions]
    writer().html(trajectory, 3, trajectories=True)
    for (first, middle, last), end in zip((shown[:3], shown[3:]), ends, strict=True):
        assert numpy.allclose(first.points - middle.points, middle.points - last.points, atol=1e-5)
        assert numpy.allclose(last.points, principal(end.positions), atol=1e-5)
    shown.clear()
    writer().html(trajectory, 3)
    assert not numpy.allclose(shown[0].points - shown[1].points, shown[1].points - shown[2].points, atol=1e-2)


def test_scenes_are_rotated_and_not_mirrored(molecules):
    positions = molecules[7].positions.astype(float)
    rotated = principal(positions)
    distances = numpy.linalg.norm(positions[:, None] - positions, axis=-1)
    assert numpy.allclose(numpy.linalg.norm(rotated[:, None] - rotated, axis=-1), distances)
    volumes = [numpy.linalg.det(p[1:4] - p[0]) for p in (positions, rotated)]
    assert volumes[0] == pytest.approx(volumes[1])
    variance = rotated.var(0)
    assert variance[0] >= variance[1] >= variance[2]
    assert principal(numpy.zeros((0, 3))).shape == (0, 3)
    assert numpy.array_equal(principal(numpy.ones((1, 3))), numpy.zeros((1, 3)))


def test_the_summary_says_how_often_molecules_are_what_sentences_ask_for():
    samples = [embedded("c1ccccc1N"), embedded("CCO"), PENTAVALENT]
    captions = [{"prompt": "an aromatic amine"}, {"prompt": "an acyclic amine"}, {}]
    *_, line = writer().summary(samples, captions)
    assert line == "1 of 2 molecules show what was asked for (aromatic 1 of 1, rings 1 of 1, groups 1 of 2)"
