import pytest
import torch

from diffcore.errors import UserError
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.evaluation import property_regressor
from diffcore_molecule.evaluation.property_regressor import RegressorNetwork, trained_regressor
from tests.molecule.made import batch_of, conformer

SMILES = ("CCO", "CC#C", "C=CC", "CC=O", "CCN", "COC", "CCF", "C1CC1", "CC(=O)O", "CNC")
NAMES = ("extent", "oxygens")


@pytest.fixture(scope="module")
def synthetic():
    """Distorted conformers, and two functions of them: the mean distance between atoms, and the number of oxygens."""
    generator = torch.Generator().manual_seed(0)
    molecules = []
    for smiles in SMILES:
        molecule = conformer(smiles, hydrogens=False)
        for _ in range(60):
            positions = torch.from_numpy(molecule.positions)
            positions = positions * (1 + 0.3 * torch.rand(1, generator=generator))
            positions = positions + 0.1 * torch.randn(positions.shape, generator=generator)
            molecules.append(Molecule(molecule.numbers, molecule.charges, molecule.bonds, positions.numpy()))
    batch = batch_of(molecules)
    distances = torch.stack([torch.pdist(torch.from_numpy(m.positions)).mean() for m in molecules])
    batch["properties"] = torch.stack([distances, (batch["numbers"] == 8).sum(1).float()], 1)
    return molecules, batch


@pytest.fixture(scope="module")
def learned(synthetic, tmp_path_factory):
    cache = tmp_path_factory.mktemp("regressor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(property_regressor, "_STEPS", 150)
        return trained_regressor(synthetic[1], NAMES, cache), cache


def test_learns_a_function_of_the_geometry_and_measures_its_error(synthetic, learned):
    found, _ = learned
    molecules, batch = synthetic
    assert tuple(found.mae) == NAMES
    assert found.mae["extent"] < 0.3 * found.mean_mae["extent"]
    assert found.mae["oxygens"] < 0.1 * found.mean_mae["oxygens"]
    predicted = found.predict(molecules)
    assert predicted.shape == (600, 2)
    overall = (predicted - batch["properties"]).abs().mean(0)
    assert overall[0] < 2 * found.mae["extent"]
    assert found.predict([]).shape == (0, 2)


def test_error_is_of_molecules_that_the_regressor_has_not_seen(synthetic, tmp_path, monkeypatch):
    """Random values cannot be learned: an error below that of the mean would be measured on training molecules."""
    batch = synthetic[1].clone()
    batch["properties"] = torch.randn(600, 1, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(property_regressor, "_STEPS", 150)
    found = trained_regressor(batch, ("chance",), tmp_path)
    assert found.mae["chance"] > 0.9 * found.mean_mae["chance"]
    assert (found.predict_examples(batch) - batch["properties"]).abs().mean() < found.mae["chance"]


def test_is_invariant_to_translation_rotation_reflection_order_and_padding(synthetic):
    torch.manual_seed(0)
    network = RegressorNetwork(2).double()
    molecule = conformer("CC(=O)[O-]")
    whole = batch_of([molecule, conformer("CCCCCC")]).double()
    with torch.no_grad():
        alone = network(batch_of([molecule]).double())[0]
        torch.testing.assert_close(network(whole)[0], alone, rtol=1e-9, atol=1e-9)
        rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
        for sign in (1, -1):
            moved = batch_of([molecule]).double()
            moved["positions"] = sign * moved["positions"] @ rotation + 3
            torch.testing.assert_close(network(moved)[0], alone, rtol=1e-6, atol=1e-6)
        order = torch.randperm(len(molecule)).numpy()
        shuffled = Molecule(
            molecule.numbers[order],
            molecule.charges[order],
            molecule.bonds[order][:, order],
            molecule.positions[order],
        )
        torch.testing.assert_close(network(batch_of([shuffled]).double())[0], alone, rtol=1e-9, atol=1e-9)
        neutral = batch_of([molecule]).double()
        neutral["charges"] = neutral["charges"] * 0
        assert (network(neutral)[0] - alone).abs().max() > 1e-3


def test_weights_are_cached_and_damaged_ones_are_trained_again(synthetic, learned, monkeypatch):
    found, cache = learned
    molecules, batch = synthetic
    (path,) = cache.iterdir()
    monkeypatch.setattr(property_regressor, "_STEPS", 150)
    monkeypatch.setattr(property_regressor, "_fit", lambda *_: pytest.fail("trained again"))
    again = trained_regressor(batch, NAMES, cache)
    assert torch.equal(again.predict(molecules), found.predict(molecules))
    assert again.mae == found.mae
    monkeypatch.undo()
    monkeypatch.setattr(property_regressor, "_STEPS", 2)
    trained_regressor(batch, NAMES, cache)  # another number of steps has its own weights
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(property_regressor, "_STEPS", 150)
    path.write_bytes(path.read_bytes()[:100])
    fits = []
    monkeypatch.setattr(property_regressor, "_fit", lambda *arguments: fits.append(arguments))
    trained_regressor(batch, NAMES, cache)
    assert fits


def test_missing_values_are_left_out_and_too_few_molecules_are_refused(synthetic, tmp_path, monkeypatch):
    batch = synthetic[1].clone()
    batch["properties"][::2] = float("nan")
    monkeypatch.setattr(property_regressor, "_STEPS", 2)
    assert all(value == value for value in trained_regressor(batch, NAMES, tmp_path).mae.values())
    with pytest.raises(UserError, match="needs at least 3 held-out molecules with these properties; there are 2"):
        trained_regressor(synthetic[1][:2], NAMES, tmp_path)
