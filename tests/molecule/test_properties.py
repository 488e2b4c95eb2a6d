import math
import sys

import pytest
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors

from diffcore.errors import UserError
from diffcore_molecule.chemistry import properties
from diffcore_molecule.data import store

ASPIRIN = Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O")


def test_properties_of_aspirin_are_the_published_ones():
    expected = {
        "weight": 180.16,  # g/mol
        "tpsa": 63.60,  # A^2, PubChem and Ertl's method
        "logp": 1.31,  # Crippen's
        "hbd": 1,
        "heavy_atoms": 13,
        "heteroatoms": 4,
        "rings": 1,
        "aromatic_rings": 1,
        "fsp3": 1 / 9,
        "stereocentres": 0,
        "qed": 0.55,  # Bickerton et al. 2012
    }
    assert properties.measure(ASPIRIN, list(expected)) == pytest.approx(list(expected.values()), abs=0.005)


def test_values_do_not_depend_on_how_hydrogens_are_represented():
    names = [*properties.BUILT_IN, "BertzCT", "Chi0", "NumValenceElectrons"]
    assert properties.measure(Chem.AddHs(ASPIRIN), names) == pytest.approx(properties.measure(ASPIRIN, names))
    assert Descriptors.Chi0(Chem.AddHs(ASPIRIN)) != pytest.approx(
        Descriptors.Chi0(ASPIRIN)
    )  # RDKit alone does depend on it


def test_rdkit_s_descriptors_have_their_own_names():
    names = ["BertzCT", "MolMR", "Kappa2"]
    expected = [Descriptors.BertzCT(ASPIRIN), Descriptors.MolMR(ASPIRIN), Descriptors.Kappa2(ASPIRIN)]
    assert properties.measure(ASPIRIN, names) == pytest.approx(expected)
    assert properties.find("tpsa").unit == "A^2"


def test_users_functions(monkeypatch):
    monkeypatch.setattr(properties, "_registered", {})
    properties.register("oxygens", lambda m: sum(a.GetAtomicNum() == 8 for a in m.GetAtoms()), "atoms")
    properties.register("fails", lambda m: 1 / 0)
    properties.register("endless", lambda m: math.inf)
    values = properties.measure(ASPIRIN, ["oxygens", "fails", "endless", "rings"])
    assert values[0] == 4
    assert math.isnan(values[1])
    assert math.isnan(values[2])
    assert values[3] == 1
    assert properties.find("oxygens").unit == "atoms"
    assert not properties.is_stable("oxygens")
    for taken in ("qed", "BertzCT"):
        with pytest.raises(ValueError, match="already"):
            properties.register(taken, len)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package with properties, `name = function` by line, and its code."""

    def installed(points, code, package="toy"):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {package}_properties:{function}" for name, function in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[diffcore_molecule.properties]", *lines, ""]))
        (tmp_path / f"{package}_properties.py").write_text(code)
        forget()

    def forget():
        for cached in (properties._installed, properties._loaded, properties._tell_failure):
            cached.cache_clear()
        for name in [name for name in sys.modules if name.endswith("_properties") and "." not in name]:
            del sys.modules[name]

    monkeypatch.syspath_prepend(str(tmp_path))
    yield installed
    monkeypatch.undo()
    forget()


CARBONS = "def carbons(molecule):\n    return sum(atom.GetAtomicNum() == 6 for atom in molecule.GetAtoms())\n"


def test_installed_functions(install):
    install({"carbons": "carbons", "absent": "absent"}, CARBONS)
    assert properties.measure(ASPIRIN, ["carbons"]) == [9]
    assert "carbons" in properties.known_names()
    assert properties.clash("carbons") == ""
    with pytest.raises(UserError, match=r"'absent' of toy_properties:absent cannot be loaded: AttributeError"):
        properties.find("absent")


def test_names_with_two_meanings_have_one_that_is_told(install, caplog):
    install({"logp": "carbons", "TPSA": "carbons", "gap": "carbons", "twice": "carbons"}, CARBONS)
    install({"twice": "other"}, "def other(molecule):\n    return -1\n", package="zoo")
    expected = [Crippen.MolLogP(ASPIRIN), rdMolDescriptors.CalcTPSA(ASPIRIN), 9, 9]
    assert properties.measure(ASPIRIN, ["logp", "TPSA", "gap", "twice"]) == pytest.approx(expected)
    store.check_names(["logp", "TPSA", "gap", "twice"], known=())
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "the property 'logp' has two meanings: diffcore's own property is used, and toy_properties:carbons of toy is "
        "not; rename the latter",
        "the property 'TPSA' has two meanings: RDKit's descriptor is used, and toy_properties:carbons of toy is not; "
        "rename the latter",
        "the property 'twice' has two meanings: toy_properties:carbons of toy is used, and zoo_properties:other of zoo "
        "is not; rename the latter",
    ]
    assert "values of the QM9 file is used" in properties.clash("gap", of_file=True)


def test_why_a_function_fails_is_told_once(monkeypatch, caplog):
    monkeypatch.setattr(properties, "_registered", {})
    properties._tell_failure.cache_clear()
    properties.register("broken", lambda m: 1 / 0)
    for _ in range(3):
        properties.measure(ASPIRIN, ["broken"])
    (record,) = caplog.records
    assert record.getMessage().endswith("ZeroDivisionError: division by zero")


def test_errors_about_unknown_names_list_the_available_ones():
    with pytest.raises(
        UserError, match=r"unknown property 'lopg' \(did you mean 'logp'\?\); properties are logp, tpsa, qed"
    ):
        properties.find("lopg")
    with pytest.raises(UserError, match=r"'mu' .*only the data set qm9 .*RDKit's descriptors by their own names"):
        properties.find("mu")
