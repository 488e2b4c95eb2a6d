"""The metrics of MOSES, compared with sums over pairs written out, and with known fragments and scaffolds."""

import math
import sys

import numpy
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from diffcore_molecule.evaluation import likeness

SMILES = ("CCOC(=O)c1ccccc1", "c1ccc(-c2ccncc2)cc1", "CCN", "O=C(NCc1ccccc1)C1CCCCC1")
MOLS = [Chem.MolFromSmiles(smiles) for smiles in SMILES]


def tanimoto():
    """The similarities of all pairs, from the bits themselves."""
    bits = [set(AllChem.GetMorganFingerprintAsBitVect(mol, 2, 1024).GetOnBits()) for mol in MOLS]
    return numpy.array([[len(a & b) / len(a | b) for b in bits] for a in bits])


def test_diversity_and_nearest_similarity_are_sums_over_pairs():
    similar, prints = tanimoto(), likeness.fingerprints(MOLS)
    assert likeness.internal_diversity(prints) == pytest.approx(1 - similar.mean())
    assert likeness.internal_diversity(prints, 2) == pytest.approx(1 - numpy.sqrt((similar**2).mean(1)).mean())
    assert likeness.nearest_similarity(prints[:2], prints[2:]) == pytest.approx(similar[:2, 2:].max(1).mean())
    assert likeness.nearest_similarity(prints, prints) == 1
    assert likeness.internal_diversity(prints[:1]) == pytest.approx(0)
    assert math.isnan(likeness.internal_diversity([]))


def test_fragments_and_scaffolds_are_counted_and_compared_by_their_angle():
    found = likeness.scaffolds(MOLS)  # benzene and chains have fewer than two rings
    assert found == {"c1ccc(-c2ccncc2)cc1": 1, "O=C(NCc1ccccc1)C1CCCCC1": 1}
    biphenyl = likeness.fragments([Chem.MolFromSmiles("c1ccc(-c2ccccc2)cc1")] * 2)
    assert biphenyl == {"[16*]c1ccccc1": 4}
    assert likeness.cosine({"a": 3, "b": 4}, {"b": 2}) == pytest.approx(0.8)
    assert likeness.cosine({"a": 1}, {"b": 1}) == 0
    assert likeness.cosine(found, found) == pytest.approx(1)
    assert math.isnan(likeness.cosine({}, {"a": 1}))


@pytest.mark.parametrize(
    ("smiles", "passes"),
    [
        ("CCOC(=O)c1ccccc1", True),
        ("C1CCCCCCC1", False),  # a ring of eight
        ("CC[NH3+]", False),
        ("CCI", False),
        ("O=C1C=CC(=O)C=C1", False),  # a quinone, which PAINS lists
    ],
)
def test_filters(smiles, passes):
    assert likeness.passes_filters(Chem.MolFromSmiles(smiles)) is passes


def test_medicinal_filters_are_read_from_the_package_of_moses(tmp_path, monkeypatch):
    """Patterns may have hydrogens, and the package is not imported."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert likeness.medicinal_filters() is None
    (tmp_path / "molsets-0.3.1.dist-info").mkdir()
    (tmp_path / "molsets-0.3.1.dist-info" / "METADATA").write_text("Name: molsets\nVersion: 0.3.1\n")
    (tmp_path / "moses" / "metrics").mkdir(parents=True)
    (tmp_path / "moses" / "__init__.py").write_text("raise ImportError('its models need old packages')")
    (tmp_path / "moses" / "metrics" / "mcf.csv").write_text('names,smarts\nMCF1,[#6]-[#17]\nMCF2,"[#8]-[#1]"\n')
    patterns = likeness.medicinal_filters()
    passed = [likeness.passes_filters(Chem.MolFromSmiles(smiles), patterns) for smiles in ("CCl", "CCO", "COC")]
    assert passed == [False, False, True]
