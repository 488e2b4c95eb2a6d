"""The training examples that are nearest to samples, for each kind of data."""

import re

import numpy
import pytest
import torch

import diffcore as dc
from diffcore.evaluation import neighbours
from diffcore.evaluation.neighbours import examples_as_samples, nearest_picture
from diffcore.plugins.output import Picture
from diffcore.runs.model import numbers_of_a_sample
from tests.support.quickest import QUICKEST


@pytest.fixture(scope="module", params=QUICKEST)
def run(request, tmp_path_factory, trained, few_pictures):
    return dc.load(trained(tmp_path_factory.mktemp("neighbours") / request.param, *QUICKEST[request.param]))


def numbers(title):
    return [float(value) for value in re.findall(r"(?:distance|examples) ([\d.]+(?:e-\d+)?)(?=[, (])", title)]


def test_copies_of_training_examples_are_found_at_no_distance(run, monkeypatch):
    monkeypatch.setattr(neighbours, "MOST", 60)
    data, model = run.data, run.model
    examples = data.examples[:60]
    data = type(data)(data.facts, examples, data.held_out[:8])
    rows = torch.tensor([41, 3, 17])
    copies = examples_as_samples(model, examples[rows])
    picture = nearest_picture(model, data, copies)
    assert isinstance(picture, Picture)
    assert picture.columns == 3
    assert "of 60 training examples" in picture.title
    found, real = numbers(picture.title)
    assert found == pytest.approx(0, abs=1e-6)
    assert real > 0.01
    above, below = picture.samples[:3], picture.samples[3:]
    distance = model.modality.distance(model.codec)
    assert torch.allclose(distance(above, below).diagonal().double(), torch.zeros(3, dtype=torch.float64), atol=1e-6)


def test_distances_are_those_of_a_second_implementation(run):
    model = run.model
    samples, others = (examples_as_samples(model, run.data.examples[rows]) for rows in (slice(0, 3), slice(3, 7)))
    distance = model.modality.distance(model.codec)
    found = distance(samples, others)
    assert found.shape == (3, 4)
    name = model.modality.name
    for row in range(3):
        for column in range(4):
            expected = SECOND[name](model, samples, row, others, column)
            assert found[row, column].item() == pytest.approx(expected, rel=1e-4)


def of_pixels(model, samples, row, others, column):
    a, b = samples[row].numpy().astype(float), others[column].numpy().astype(float)
    return numpy.sqrt(numpy.mean((a - b) ** 2))


def of_sounds(model, samples, row, others, column):
    from diffcore_audio.signals.spectra import log_mel

    spectra = [
        log_mel(each[None], model.codec.facts.rate, 32, -60.0)[0].numpy() for each in (samples[row], others[column])
    ]
    a, b = (numpy.maximum(each, -60).astype(float) for each in spectra)
    return numpy.sqrt(numpy.mean((a - b) ** 2))


def of_graphs(model, samples, row, others, column):
    from rdkit import Chem, DataStructs
    from rdkit.Chem import AllChem

    from diffcore_molecule.chemistry.molecules import to_rdkit

    mols = [to_rdkit(each, model.codec.facts.hydrogens) for each in (samples[row], others[column])]
    for mol in mols:
        Chem.SanitizeMol(mol)
    prints = [AllChem.GetMorganFingerprintAsBitVect(mol, 2, nBits=2048) for mol in mols]
    return 1 - DataStructs.FingerprintSimilarity(*prints)


def of_clouds(model, samples, row, others, column):
    a, b = (
        each["positions"][index, :128].numpy().astype(float) / model.codec.facts.scale
        for each, index in ((samples, row), (others, column))
    )
    squared = ((a[:, None] - b[None]) ** 2).sum(2)
    return squared.min(1).mean() + squared.min(0).mean()


SECOND = {"image": of_pixels, "audio": of_sounds, "molecule": of_graphs, "pointcloud": of_clouds}


def test_the_report_has_them_where_a_sample_has_a_distance(run):
    page = (run.path / "report.html").read_text()
    found = re.search(r"Samples above the nearest of [\d,]+( of [\d,]+)? training examples: distance", page)
    assert found or run.model.modality.name == "molecule"  # the one sample of an untrained network is not valid


def test_large_examples_are_compared_in_smaller_batches(run, monkeypatch):
    """500 pictures of 512 x 512 pixels would need 3 GB as numbers of 64 bits."""
    sizes = []

    def counted(model, examples):
        sizes.append(len(examples))
        return examples_as_samples(model, examples)

    monkeypatch.setattr(neighbours, "MOST", 12)
    monkeypatch.setattr(neighbours, "_NUMBERS", 5 * numbers_of_a_sample(run.model.codec))
    copies = examples_as_samples(run.model, run.data.examples[:3])
    monkeypatch.setattr(neighbours, "examples_as_samples", counted)
    data = type(run.data)(run.data.facts, run.data.examples[:12], None)
    picture = nearest_picture(run.model, data, copies)
    assert picture is not None
    assert numbers(picture.title)[0] == pytest.approx(0, abs=1e-6)
    assert sizes[:3] == [5, 5, 2]


def test_a_sound_that_is_not_finite_is_far_from_silence_too(run):
    if run.model.modality.name != "audio":
        pytest.skip("for sounds")
    samples = examples_as_samples(run.model, run.data.examples[:2]).clone()
    samples[0, 0, 5] = torch.nan
    found = run.model.modality.distance(run.model.codec)(samples, torch.zeros_like(samples))
    assert found.isfinite().all(1).tolist() == [False, True]
