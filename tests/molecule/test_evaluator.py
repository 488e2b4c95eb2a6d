import math
from types import SimpleNamespace

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import Crippen

from diffcore.plugins.data import Data
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.evaluation import evaluator, plausibility, property_regressor
from diffcore_molecule.evaluation.evaluator import build_evaluator
from diffcore_molecule.options import MoleculeFacts, PropertyFacts
from tests.molecule.made import by_hand, conformer, examples, star

TRAINING = ("CCO", "CC=O", "CCN", "C1CC1", "CC#N", "OCCO", "CC(C)O", "c1ccccc1")
HELD_OUT = ("CCC", "COC", "CC(=O)N", "C1CCC1", "OCC=O", "NCC", "CCCO", "C=CC")
INVALID = by_hand(["C", *"FFFFF"], [(0, i, 1) for i in range(1, 6)])


@pytest.fixture(autouse=True)
def without_posebusters(monkeypatch):
    """PoseBusters takes seconds, so only one test uses it."""
    monkeypatch.setattr(plausibility, "available", lambda: False)


def logp(molecules):
    return torch.tensor([[Crippen.MolLogP(Chem.MolFromSmiles(smiles))] for smiles in molecules])


def made(hydrogens, names=("logp",), values=logp, cache=None):
    facts = MoleculeFacts(
        hydrogens=hydrogens,
        elements=(1, 6, 7, 8),
        element_fractions=(0.25,) * 4,
        charges=(0,),
        charge_fractions=(1.0,),
        bond_fractions=(0.25,) * 4,
        position_std=1,
        max_atoms=20,
        sizes=(3,),
        size_counts=(1,),
        properties=tuple(PropertyFacts(name=n, mean=0, std=1, quantiles=(0, 1), by_size=((0, 1),)) for n in names),
    )
    parts = [
        examples([conformer(smiles, hydrogens) for smiles in those], hydrogens, values(those))
        for those in (TRAINING, HELD_OUT)
    ]
    return build_evaluator(SimpleNamespace(facts=facts), Data(facts, *parts), cache)


def metrics(evaluate, samples):
    found = evaluate(samples, {})
    assert len({metric.name for metric in found}) == len(found)
    assert all(metric.meaning for metric in found)
    assert all(math.isfinite(metric.value) for metric in found)
    return {metric.name: metric.value for metric in found}


def test_fractions_with_implicit_hydrogens():
    samples = [conformer(smiles, hydrogens=False) for smiles in ("CCO", "CCS", "CCS", "CCCl")]
    found = metrics(made(False), [*samples, INVALID])
    expected = {"valid": 4 / 5, "unique": 3 / 4, "novel": 2 / 3, "v_u": 3 / 5, "v_u_n": 2 / 5, "edm_valid": 4 / 5}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert (found["unique_stereo"], found["novel_stereo"], found["contacts"]) == pytest.approx((3 / 4, 2 / 3, 0))
    assert found["stable_strict"] == pytest.approx(4 / 5)
    assert found["stable_atoms_strict"] == pytest.approx(1 - 1 / (4 * 3 + 6))
    assert {name for name in found if "lookup" in name} == {
        "placed_lookup_stable_edm",
        "placed_lookup_stable_atoms_edm",
    }
    assert found["placed_stable_strict"] == pytest.approx(4 / 5)


def test_explicit_hydrogens_have_metrics_of_generated_and_of_inferred_bonds():
    """The generated bonds are right in one sample only; the positions are right in all samples but the radical."""
    ethanol = conformer("CCO")
    no_bonds = Molecule(ethanol.numbers, ethanol.charges, ethanol.bonds * 0, ethanol.positions)
    evaluate = made(True)
    found = metrics(evaluate, [ethanol, no_bonds, star("N", "H", 4, charge=1), star("C", "H", 3)])
    assert found["valid"] == pytest.approx(3 / 4)
    assert found["edm_valid"] == 1
    assert found["radicals"] == pytest.approx(1 / 4)
    assert found["stable_strict"] == pytest.approx(2 / 4)
    assert found["stable_edm"] == pytest.approx(1 / 4)
    assert found["stable_atoms_edm"] == pytest.approx((9 + 0 + 4 + 3) / (9 + 9 + 5 + 4))
    assert found["lookup_stable_edm"] == pytest.approx(2 / 4)
    assert found["lookup_edm_valid"] == 1
    meanings = {metric.name: metric.meaning for metric in evaluate([ethanol], {})}
    assert "inferred from distances" in meanings["lookup_stable_edm"]
    assert meanings["stable_strict"].endswith("of 16 real molecules: 1")


def test_real_molecules_are_near_and_stretched_ones_are_as_far_as_they_are_stretched():
    evaluate = made(False)
    real = [conformer(smiles, hydrogens=False) for smiles in TRAINING + HELD_OUT]
    near = metrics(evaluate, real)
    assert near["bond_kinds"] == near["elements"] == near["atoms"] == near["rings"] == 0
    assert near["bond_lengths"] == pytest.approx(0, abs=1e-6)
    assert near["bond_angles"] == pytest.approx(0, abs=1e-3)
    assert near["logp_w1"] == pytest.approx(0, abs=1e-6)
    assert near["bond_lengths_real"] > 0
    stretched = [Molecule(m.numbers, m.charges, m.bonds, m.positions * 1.1) for m in real]
    far = metrics(evaluate, stretched)
    mean = sum(length for m in real for length in bond_lengths(m)) / sum(len(bond_lengths(m)) for m in real)
    assert far["bond_lengths"] == pytest.approx(0.1 * mean, rel=1e-4)
    assert far["bond_angles"] == pytest.approx(0, abs=1e-3)


def bond_lengths(molecule):
    first, second = molecule.bonds.nonzero()
    vectors = molecule.positions[first] - molecule.positions[second]
    return ((vectors**2).sum(1) ** 0.5).tolist()


def test_measure_gives_rdkit_s_properties_and_nan_for_what_is_not_valid():
    samples = [conformer("CCO"), star("C", "H", 5), conformer("CC(=O)N")]
    evaluate = made(True, ("logp", "weight"), lambda those: torch.cat([logp(those), logp(those)], 1))
    found = evaluate.measure(samples)
    assert found["logp"][[0, 2]].tolist() == pytest.approx(logp(["CCO", "CC(=O)N"])[:, 0].tolist())
    assert found["weight"][0].item() == pytest.approx(46.069, abs=1e-3)
    assert all(math.isnan(values[1]) for values in found.values())
    assert all(values.shape == (3,) for values in found.values())
    assert evaluate.measure([])["logp"].shape == (0,)


def test_properties_of_dft_are_predicted_by_a_regressor(tmp_path, monkeypatch):
    monkeypatch.setattr(property_regressor, "_STEPS", 100)

    def values(those):  # "mu" is ten times the number of carbons
        carbons = [10.0 * sum(atom.GetAtomicNum() == 6 for atom in Chem.MolFromSmiles(s).GetAtoms()) for s in those]
        return torch.cat([logp(those), torch.tensor(carbons)[:, None]], 1)

    evaluate = made(False, ("logp", "mu"), values, tmp_path)
    samples = [conformer("CCC", False), INVALID, conformer("CCCO", False)]
    found = evaluate.measure(samples)
    assert found["mu"][[0, 2]].tolist() == pytest.approx([30, 30], abs=6)
    assert found["mu"][1].isnan()
    assert found["logp"][0].item() == pytest.approx(logp(["CCC"]).item())
    found_metrics = metrics(evaluate, samples)
    assert {"mu_w1", "mu_w1_real", "mu_regressor_mae", "logp_w1"} <= found_metrics.keys()
    assert len(list(tmp_path.iterdir())) == 1


def test_there_are_metrics_without_any_valid_sample():
    found = metrics(made(False), [INVALID, by_hand([], [])])
    assert found["valid"] == found["v_u_n"] == found["unique"] == 0
    assert "bond_lengths" not in found
    assert "logp_w1" not in found


def test_large_held_out_sets_are_the_reference(monkeypatch):
    evaluate = made(False)
    assert "16 real molecules of the whole data set" in evaluate([INVALID, conformer("CC", False)], {})[-2].meaning
    monkeypatch.setattr(evaluator, "_MIN_HELD_OUT", 8)
    assert "8 held-out real molecules" in made(False)([conformer("CC", False)], {})[-2].meaning


def test_plausible_samples_are_a_fraction_of_all(monkeypatch):
    pytest.importorskip("posebusters")
    monkeypatch.setattr(plausibility, "available", lambda: True)
    ethanol = conformer("CCO", hydrogens=False)
    squeezed = Molecule(ethanol.numbers, ethanol.charges, ethanol.bonds, ethanol.positions * 0.5)
    found = metrics(made(False), [ethanol, squeezed, INVALID, conformer("CC=O", hydrogens=False)])
    assert found["valid"] == pytest.approx(3 / 4)
    assert found["pb_valid"] == pytest.approx(2 / 4)
