import pytest
import torch

from diffcore.errors import UserError
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.evaluation import property_regressor as oracle
from diffcore_molecule.evaluation.property_regressor import Regressor, trained_oracle
from tests.molecule.made import batch_of, conformer

SMILES = ("CCO", "CC#C", "C=CC", "CC=O", "CCN", "COC", "CCF", "C1CC1", "CC(=O)O", "CNC")
NAMES = ("spread", "oxygens")


@pytest.fixture(scope="module")
def synthetic():
    """Distorted conformers, and two functions of them: the mean distance between atoms, and the number of oxygens."""
    generator = torch.Generator().manual_seed(0)
    molecules = []
    for smiles in SMILES:
        molecule = conformer(smiles, hydrogens=False)
        for _ in range(60):
            places = torch.from_numpy(molecule.positions)
            places = places * (1 + 0.3 * torch.rand(1, generator=generator))
            places = places + 0.1 * torch.randn(places.shape, generator=generator)
            molecules.append(Molecule(molecule.numbers, molecule.charges, molecule.bonds, places.numpy()))
    batch = batch_of(molecules)
    distances = torch.stack([torch.pdist(torch.from_numpy(m.positions)).mean() for m in molecules])
    batch["properties"] = torch.stack([distances, (batch["numbers"] == 8).sum(1).float()], 1)
    return molecules, batch


@pytest.fixture(scope="module")
def learned(synthetic, tmp_path_factory):
    cache = tmp_path_factory.mktemp("oracle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "_STEPS", 150)
        return trained_oracle(synthetic[1], NAMES, cache), cache


def test_learns_a_function_of_the_geometry_and_tells_its_error(synthetic, learned):
    found, _ = learned
    molecules, batch = synthetic
    assert tuple(found.mae) == NAMES
    assert found.mae["spread"] < 0.3 * found.mean_mae["spread"]
    assert found.mae["oxygens"] < 0.1 * found.mean_mae["oxygens"]
    predicted = found.predict(molecules)
    assert predicted.shape == (600, 2)
    overall = (predicted - batch["properties"]).abs().mean(0)
    assert overall[0] < 2 * found.mae["spread"]
    assert found.predict([]).shape == (0, 2)


def test_error_is_of_molecules_that_the_regressor_has_not_seen(synthetic, tmp_path, monkeypatch):
    """Values at random cannot be learned: an error below that of the mean would be of molecules learned by heart."""
    batch = synthetic[1].clone()
    batch["properties"] = torch.randn(600, 1, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(oracle, "_STEPS", 150)
    found = trained_oracle(batch, ("chance",), tmp_path)
    assert found.mae["chance"] > 0.9 * found.mean_mae["chance"]
    assert (found.predict_examples(batch) - batch["properties"]).abs().mean() < found.mae["chance"]


def test_does_not_depend_on_place_turn_mirror_order_or_padding(synthetic):
    torch.manual_seed(0)
    regressor = Regressor(2).double()
    molecule = conformer("CC(=O)[O-]")
    whole = batch_of([molecule, conformer("CCCCCC")]).double()
    with torch.no_grad():
        alone = regressor(batch_of([molecule]).double())[0]
        torch.testing.assert_close(regressor(whole)[0], alone, rtol=1e-9, atol=1e-9)
        turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
        for sign in (1, -1):
            moved = batch_of([molecule]).double()
            moved["positions"] = sign * moved["positions"] @ turn + 3
            torch.testing.assert_close(regressor(moved)[0], alone, rtol=1e-6, atol=1e-6)
        order = torch.randperm(len(molecule)).numpy()
        shuffled = Molecule(
            molecule.numbers[order],
            molecule.charges[order],
            molecule.bonds[order][:, order],
            molecule.positions[order],
        )
        torch.testing.assert_close(regressor(batch_of([shuffled]).double())[0], alone, rtol=1e-9, atol=1e-9)
        neutral = batch_of([molecule]).double()
        neutral["charges"] = neutral["charges"] * 0
        assert (regressor(neutral)[0] - alone).abs().max() > 1e-3


def test_weights_are_kept_and_damaged_ones_are_made_anew(synthetic, learned, monkeypatch):
    found, cache = learned
    molecules, batch = synthetic
    (path,) = cache.iterdir()
    monkeypatch.setattr(oracle, "_STEPS", 150)
    monkeypatch.setattr(oracle, "_fit", lambda *_: pytest.fail("trained again"))
    again = trained_oracle(batch, NAMES, cache)
    assert torch.equal(again.predict(molecules), found.predict(molecules))
    assert again.mae == found.mae
    monkeypatch.undo()
    monkeypatch.setattr(oracle, "_STEPS", 2)
    trained_oracle(batch, NAMES, cache)  # another recipe has weights of its own
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(oracle, "_STEPS", 150)
    path.write_bytes(path.read_bytes()[:100])
    fits = []
    monkeypatch.setattr(oracle, "_fit", lambda *arguments: fits.append(arguments))
    trained_oracle(batch, NAMES, cache)
    assert fits


def test_unknown_values_are_left_out_and_too_few_are_said(synthetic, tmp_path, monkeypatch):
    batch = synthetic[1].clone()
    batch["properties"][::2] = float("nan")
    monkeypatch.setattr(oracle, "_STEPS", 2)
    assert all(value == value for value in trained_oracle(batch, NAMES, tmp_path).mae.values())
    with pytest.raises(UserError, match="needs more held-out molecules; there are 2"):
        trained_oracle(synthetic[1][:2], NAMES, tmp_path)
