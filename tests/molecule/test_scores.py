"""Values of single molecules, compared with RDKit and with energies that are known."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem, Crippen, inchi, rdMolDescriptors

from diffcore.errors import UserError
from diffcore_molecule.chemistry import properties
from diffcore_molecule.chemistry.alerts import has_alert, synthetic_accessibility
from diffcore_molecule.chemistry.hydrogens import with_hydrogens
from diffcore_molecule.chemistry.molecules import from_rdkit
from diffcore_molecule.chemistry.strain import strain_energy
from diffcore_molecule.evaluation import plausibility
from diffcore_molecule.evaluation.metrics import validated
from diffcore_molecule.options import PropertyFacts
from diffcore_molecule.output.records import record
from diffcore_molecule.output.scores import MoleculeScorer
from diffcore_molecule.output.writer import sdf
from tests.molecule.made import by_hand, conformer, examples

CROWDED = by_hand(["C", *"FFFFF"], [(0, k, 1) for k in range(1, 6)])


def scorer(data=None, functions=None, hydrogens=False, names=()):
    facts = SimpleNamespace(
        hydrogens=hydrogens,
        joint=(),
        measured=[PropertyFacts(name=name, mean=0, std=1, quantiles=(0, 1), by_size=()) for name in names],
    )
    return MoleculeScorer(SimpleNamespace(facts=facts), lambda: data, functions or {})


def test_values_of_valid_and_of_other_molecules():
    found = scorer().score([conformer("C[C@H](N)C(=O)O", False), CROWDED], [*scorer().columns, "BertzCT"])
    assert found["valid"] == [True, False]
    mol = Chem.MolFromSmiles(found["smiles"][0])
    assert found["inchikey"] == [inchi.MolToInchiKey(Chem.MolFromSmiles("C[C@H](N)C(=O)O")), None]
    assert found["logp"][0] == pytest.approx(Crippen.MolLogP(mol))
    assert found["sa"][0] == pytest.approx(synthetic_accessibility(mol))
    assert 1 <= synthetic_accessibility(Chem.MolFromSmiles("CCO")) < found["sa"][0] < 10
    assert found["reason"][1].startswith("a wrong valence")
    assert found["novel"] == [None, None]  # there are no data to compare with
    assert all(values[1] is None for name, values in found.items() if name not in ("valid", "reason", "geometry"))
    assert found["BertzCT"][0] > 0


def test_novelty_with_and_without_stereochemistry():
    left, other = conformer("C[C@H](N)C(=O)O", False), conformer("CCO", False)
    right = replace(left, positions=left.positions * numpy.array([1, 1, -1], "f4"))
    data = SimpleNamespace(examples=examples([left], False))
    found = scorer(data).score([left, right, other], ["novel", "novel_stereo"])
    assert found == {"novel": [False, False, True], "novel_stereo": [False, True, True]}


def test_alerts_are_those_of_rdkit_s_catalogs():
    quinone, ethanol = (Chem.MolFromSmiles(smiles) for smiles in ("O=C1C=CC(=O)C=C1", "CCO"))
    assert [has_alert(mol, "PAINS") for mol in (quinone, ethanol)] == [True, False]
    assert [has_alert(mol, "BRENK") for mol in (Chem.MolFromSmiles("CC=O"), ethanol)] == [True, False]


def test_strain_is_the_energy_of_relaxation():
    """None at a minimum; of a butane with one torsion twisted, the barrier between its conformers."""
    butane = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    AllChem.EmbedMolecule(butane, randomSeed=2)
    AllChem.MMFFOptimizeMolecule(butane, maxIters=5000)
    assert strain_energy(butane) == pytest.approx(0, abs=1e-2)
    Chem.rdMolTransforms.SetDihedralDeg(butane.GetConformer(), 0, 1, 2, 3, 0.0)  # eclipsed
    assert 4 < strain_energy(butane) < 9  # kcal/mol; relaxed at this torsion about 5
    heavy = validated(conformer("CCCC", hydrogens=False), False)  # hydrogens are placed, and are no strain
    assert strain_energy(heavy) < 0.5
    stretched = from_rdkit(butane)
    stretched = replace(stretched, positions=stretched.positions * numpy.float32(1.2))
    assert strain_energy(validated(stretched, False)) > 20
    assert math.isnan(strain_energy(validated(by_hand(["B", "C"], [(0, 1, 1)]), False)))


def test_functions_of_the_user_take_rdkit_molecules(monkeypatch):
    monkeypatch.setattr(properties, "_registered", {})
    made = scorer(functions={"carbons": lambda mol: mol.GetNumAtoms()}, names=("TPSA", "mu"))
    assert {"carbons", "TPSA"} <= made.columns.keys()
    assert "mu" not in made.columns
    assert made.score([conformer("CCC", False)], ["carbons"]) == {"carbons": [3.0]}
    with pytest.raises(UserError, match="the property 'logp' exists already; write NAME=module:function"):
        scorer(functions={"logp": len})


def test_names_and_packages_that_are_missing(monkeypatch):
    with pytest.raises(UserError, match=r"unknown value 'qde' \(did you mean 'qed'\?\); there are: valid, smiles"):
        scorer().require(["qed", "qde"])
    with pytest.raises(UserError, match="comes from DFT"):
        scorer().require(["gap"])
    monkeypatch.setattr(plausibility, "available", lambda: False)
    with pytest.raises(UserError, match="needs the package posebusters"):
        scorer().require(["posebusters"])


def test_hydrogens_are_added_and_nothing_else_moves():
    """Hydrogens that RDKit puts into each other's way are moved apart."""
    smiles = "CC1(C)CC2CC1C2"
    heavy = conformer(smiles, hydrogens=False)
    mol = validated(heavy, False)
    whole = with_hydrogens(mol)
    n = mol.GetNumAtoms()
    assert whole.GetNumAtoms() == Chem.AddHs(mol).GetNumAtoms() > n
    moved = whole.GetConformer().GetPositions()
    assert abs(moved[:n] - mol.GetConformer().GetPositions()).max() < 1e-6
    plain = Chem.AddHs(mol, addCoords=True).GetConformer().GetPositions()
    assert abs(moved[n:] - plain[n:]).max() > 1e-3
    assert with_hydrogens(whole).GetNumAtoms() == whole.GetNumAtoms()


def test_files_with_hydrogens_on_request():
    benzene, wrong = (record(molecule, False) for molecule in (conformer("c1ccccc1", False), CROWDED))
    mol = Chem.MolFromMolBlock(sdf(benzene, "1", {}, add_hydrogens=True), removeHs=False)
    assert [atom.GetSymbol() for atom in mol.GetAtoms()] == ["C"] * 6 + ["H"] * 6
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == "c1ccccc1"
    bonds = [
        bond.GetBondTypeAsDouble() for bond in Chem.MolFromMolBlock(sdf(benzene, "1", {}), sanitize=False).GetBonds()
    ]
    assert sorted(bonds) == [1, 1, 1, 2, 2, 2]
    assert sdf(wrong, "1", {}, add_hydrogens=True) == sdf(wrong, "1", {})


def test_similarity_is_that_of_rdkit_s_fingerprints():
    """RDKit's older function, with the number of bits and the radius that are said."""
    molecules = [conformer(smiles, False) for smiles in ("CCO", "CCN", "CCO")]
    found = scorer().similarity([*molecules, CROWDED], molecules)
    mols = [Chem.MolFromSmiles(smiles) for smiles in ("CCO", "CCN")]
    bits = [set(rdMolDescriptors.GetMorganFingerprintAsBitVect(mol, 2, 2048).GetOnBits()) for mol in mols]
    tanimoto = len(bits[0] & bits[1]) / len(bits[0] | bits[1])
    assert 0 < tanimoto < 1
    assert found[0] == pytest.approx([1, tanimoto, 1])
    assert found[1] == pytest.approx([tanimoto, 1, tanimoto])
    assert all(math.isnan(value) for value in found[3])
