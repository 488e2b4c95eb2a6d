import math
import sys

import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors

from diffcore.errors import UserError
from diffcore_molecule.chemistry import properties

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
    assert properties.unit_of("tpsa") == "A^2"
    assert properties.unit_of("gap") == "eV"


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
    assert properties.unit_of("oxygens") == "atoms"
    assert not properties.is_stable("oxygens")
    for taken in ("qed", "mu", "BertzCT"):
        with pytest.raises(ValueError, match="already"):
            properties.register(taken, len)


def test_installed_functions(tmp_path, monkeypatch):
    info = tmp_path / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[diffcore_molecule.properties]\ncarbons = toy_properties:carbons\nabsent = toy_properties:absent\n"
    )
    (tmp_path / "toy_properties.py").write_text(
        "def carbons(molecule):\n    return sum(atom.GetAtomicNum() == 6 for atom in molecule.GetAtoms())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for cached in (properties._installed, properties._loaded):
        cached.cache_clear()
    try:
        assert properties.measure(ASPIRIN, ["carbons"]) == [9]
        assert "carbons" in properties.known_names()
        with pytest.raises(UserError, match="'absent' of toy_properties:absent cannot be loaded"):
            properties.find("absent")
    finally:
        sys.modules.pop("toy_properties", None)
        properties._installed.cache_clear()
        properties._loaded.cache_clear()


def test_errors_about_unknown_names_list_the_available_ones():
    with pytest.raises(
        UserError, match=r"unknown property 'lopg' \(did you mean 'logp'\?\); properties are logp, tpsa, qed"
    ):
        properties.find("lopg")
    with pytest.raises(UserError, match=r"'mu' .*only the data set qm9 .*RDKit's descriptors by their own names"):
        properties.find("mu")
