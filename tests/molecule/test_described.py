"""Sentences about molecules: those that RDKit's answers make, and captions in a user's own files."""

import pytest
import torch
from rdkit import Chem

from diffcore.errors import UserError
from diffcore.plugins.builtin.text_encoders import diffcore_text_encoders
from diffcore.plugins.text import with_text
from diffcore.plugins.wordings import UNSAID, read
from diffcore_molecule.codec import MoleculeCodec
from diffcore_molecule.data.captions import of_records
from diffcore_molecule.data.datasets import sdf, smiles
from diffcore_molecule.data.record_texts import sdf_records
from diffcore_molecule.described.judge import judge
from diffcore_molecule.described.metrics import prompt_metrics
from diffcore_molecule.described.sentences import GROUPS, WORDINGS, write
from diffcore_molecule.options import FileOptions, SmilesOptions

ENCODER, *_ = diffcore_text_encoders()

MOLECULES = {
    "c1ccccc1N": ("yes", "one", "one", "none", ["amine"]),  # aniline
    "CCO": ("no", "none", "none", "one", ["alcohol"]),
    "CC(=O)OC": ("no", "none", "none", "more", ["ester"]),
    "CC(=O)O": ("no", "none", "none", "more", ["carboxylic acid"]),
    "CC(=O)N": ("no", "none", "one", "one", ["amide"]),
    "CC(=O)C": ("no", "none", "none", "one", ["ketone"]),
    "CC=O": ("no", "none", "none", "one", ["aldehyde"]),
    "CC#N": ("no", "none", "one", "none", ["nitrile"]),
    "C1CC2CC12": ("no", "two", "none", "none", []),
    "COCC#C": ("no", "none", "none", "one", ["ether", "alkyne"]),
    "C=CN1CC1": ("no", "one", "one", "none", ["amine", "alkene"]),
    "c1ccc2ncccc2c1": ("yes", "two", "one", "none", []),  # the N of a pyridine ring is no amine
    "C1CC2CC3CC1N23": ("no", "more", "one", "none", ["amine"]),
}
"""Aromatic, rings, nitrogen, oxygen and functional groups of molecules, by chemical knowledge."""


def test_the_judge_knows_rings_elements_and_functional_groups():
    found = judge([Chem.MolFromSmiles(text) for text in MOLECULES])
    for row, (text, (*wanted, groups)) in enumerate(MOLECULES.items()):
        for name, value in zip(("aromatic", "rings", "nitrogen", "oxygen"), wanted, strict=True):
            assert [*WORDINGS[name]][found[name][row]] == value, (text, name)
        assert [group for group in GROUPS if found[group][row] == 0] == groups, text


def test_hydrogens_do_not_matter_and_what_is_not_valid_has_no_values():
    plain = Chem.MolFromSmiles("CC(=O)N")
    found = judge([plain, Chem.AddHs(plain), None])
    assert all(value[0] == value[1] and value[2] == UNSAID for value in found.values())


def test_sentences_say_what_the_values_are():
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randint(-1, len(ways), (500,), generator=generator) for name, ways in WORDINGS.items()}
    found = read(write(values, generator, complete=True), WORDINGS)
    assert all(torch.equal(found[name], values[name]) for name in WORDINGS)
    partly = read(write(values, generator), WORDINGS)
    for name in WORDINGS:
        assert ((partly[name] == values[name]) | (partly[name] == UNSAID)).all()


def test_a_sentence_can_be_like_that_of_the_page():
    values = {name: torch.full((300,), UNSAID) for name in WORDINGS}
    values |= {"aromatic": torch.ones(300).long(), "rings": torch.full((300,), 2), "amine": torch.zeros(300).long()}
    assert "an aromatic amine with two rings" in write(values, torch.Generator().manual_seed(0), complete=True)


def test_metrics_of_molecules_and_their_own_sentences():
    mols = [Chem.MolFromSmiles(text) for text in MOLECULES] * 8
    sentences = write(judge(mols), torch.Generator().manual_seed(0), complete=True)
    found = {each.name: each for each in prompt_metrics([*mols[:-13], *[None] * 13], sentences)}
    assert [*found] == [f"prompt_{name}" for name in ("aromatic", "rings", "nitrogen", "oxygen", "groups", "all")]
    for each in found.values():
        assert each.value == pytest.approx(100 * 7 / 8, abs=1)  # the last eighth is not valid
        assert float(each.meaning.split("; ")[1].split()[0]) < each.value - 5


# Captions in a user's files


def captions(data):
    rows = data.examples["captions"].tolist() + ([] if data.held_out is None else data.held_out["captions"].tolist())
    return sorted([data.texts[number] for number in row if number >= 0] for row in rows)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('name,Caption,smiles\na,"sweet, and small",CCO\nb,,CCN\nc,bitter\u0007 taste,CCC\nd,sour,CC=O\n')
    return path


def test_a_column_of_a_table_has_captions(table):
    made = smiles(SmilesOptions(path=table, properties=(), relax=False))
    assert captions(made) == [[], ["bitter taste"], ["sour"], ["sweet, and small"]]
    assert made.ledger.noted == {"without a caption": ("line 3",)}
    assert "without control characters that its caption had" in made.ledger.changed
    again = smiles(SmilesOptions(path=table, properties=(), relax=False, caption="NAME"))
    assert captions(again) == [["a"], ["b"], ["c"], ["d"]]


def test_sentences_take_the_place_of_captions_in_a_table(table):
    made = smiles(SmilesOptions(path=table, properties=(), relax=False, captions=True, held_out=0.5))
    assert made.facts.described
    assert (made.examples["captions"].shape, made.held_out["captions"].shape) == ((2, 2), (2, 1))
    for part in (made.examples, made.held_out):
        asked = read([made.texts[number] for number in part["captions"][:, 0].tolist()], WORDINGS)
        for name, number in (("nitrogen", 7), ("oxygen", 8)):
            counted = (part["numbers"] == number).sum(1)
            assert ((asked[name] == counted) | (asked[name] == UNSAID)).all()
    assert (asked["nitrogen"] >= 0).all()  # those that are held out say everything
    codec = MoleculeCodec(with_text(made, ENCODER, ENCODER.options()).facts)
    assert [each.name for each in codec.conditions] == ["prompt"]


def test_a_table_without_captions_has_none(table):
    table.write_text("smiles\nCCO\nCCN\n")
    assert smiles(SmilesOptions(path=table, properties=(), relax=False)).texts == ()


def test_a_column_or_data_field_that_does_not_exist_is_named(table, tmp_path):
    with pytest.raises(UserError, match=r"has no captions: `data\.caption` 'taste' is the name of no column"):
        smiles(SmilesOptions(path=table, properties=(), relax=False, caption="taste"))
    path = written(tmp_path, [("CCO", {}), ("CCN", {})])
    with pytest.raises(UserError, match=r"'taste' is the name of no data field of a record"):
        sdf(FileOptions(path=path, properties=(), caption="taste"))
    with pytest.raises(ValueError, match=r"`data\.caption` reads others; give one of them"):
        FileOptions(path=path, captions=True, caption="taste")


def written(folder, molecules):
    """An SDF file of molecules with data fields."""
    path = folder / "mine.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for text, fields in molecules:
            mol = Chem.MolFromSmiles(text)
            for name, value in fields.items():
                mol.SetProp(name, value)
            writer.write(mol)
    return path


def test_a_data_field_of_records_has_captions(tmp_path):
    path = written(
        tmp_path, [("CCO", {"ID": "1", "caption": "sweet\nsmall"}), ("CCN", {}), ("CC=O", {"caption": "sour"})]
    )
    assert of_records(sdf_records(path.read_text().splitlines()), "Caption") == {1: ["sweet", "small"], 3: ["sour"]}
    made = sdf(FileOptions(path=path, properties=()))
    assert captions(made) == [[], ["sour"], ["sweet", "small"]]
    assert made.ledger.noted == {"without a caption": ("record 2",)}
