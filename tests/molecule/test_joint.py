"""Molecules and their properties as joint states: values, symmetries, files, and one drawn given the other."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from rdkit import Chem

import diffcore as dc
from diffcore import cli
from diffcore.errors import UserError
from diffcore.runs.measurements import given_by
from diffcore.states.state import named
from diffcore_molecule.chemistry.molecules import to_rdkit
from diffcore_molecule.codec import MoleculeCodec
from diffcore_molecule.data import datasets
from diffcore_molecule.data.tables import read_values
from diffcore_molecule.evaluation.sides import drawn_values, obtained_values
from diffcore_molecule.networks import builders
from diffcore_molecule.options import EmbeddedOptions, EquivariantOptions, SmilesOptions

NAMES = ("logp", "tpsa")
SMALL = {"width": 16, "pair_width": 12, "depth": 2, "heads": 4, "inner": 4}


@pytest.fixture(scope="module")
def data():
    return datasets.embedded(EmbeddedOptions(joint=NAMES))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("joint") / "run"
    small = [word for name, value in SMALL.items() for word in (f"--denoiser.{name}", str(value))]
    flags = ["--preset", "joint", "--data.joint", *NAMES, "--train.steps", "2", "--train.batch-size", "8"]
    flags += ["--train.evaluate", "0", "--sample.steps", "2"]
    assert cli.main(["train", "--modality", "molecule", "--out", str(out), *flags, *small]) == 0
    return dc.load(out)


def test_the_properties_are_a_field_of_unit_variance_and_come_back(data):
    codec = MoleculeCodec(data.facts)
    assert [condition.name for condition in codec.conditions] == []
    encoded = codec.encode(data.examples)
    field = encoded.state["properties"]
    torch.testing.assert_close(field.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(field.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    decoded = codec.decode(encoded.state[:5], encoded.mask[:5])
    found = torch.tensor([[each.properties[name] for name in NAMES] for each in decoded])
    torch.testing.assert_close(found.float(), data.examples["properties"][:5].float(), atol=1e-3, rtol=1e-5)


def test_sizes_are_drawn_for_the_given_properties(data):
    codec = MoleculeCodec(data.facts)
    about = codec.about_sizes({"properties": torch.tensor([[0.0, 0.0], [1.0, -2.0]])})
    facts = data.facts.joint
    assert about["logp"].tolist() == pytest.approx([facts[0].mean, facts[0].mean + facts[0].std])
    assert about["tpsa"].tolist() == pytest.approx([facts[1].mean, facts[1].mean - 2 * facts[1].std])
    assert {*about} <= {*codec.sizes.about}
    assert codec.about_sizes({"positions": torch.zeros(1)}) == {}


def test_drawn_properties_do_not_depend_on_how_a_molecule_lies(data):
    codec = MoleculeCodec(data.facts)
    network = builders.equivariant(EquivariantOptions(**SMALL), codec.space)
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.2)
    network = network.double().eval()
    encoded = codec.encode(data.examples[:3])
    x, mask = encoded.state.apply(lambda value: value.double()), encoded.mask
    c = torch.randn(3, network.width, dtype=torch.float64)
    with torch.no_grad():
        plain = network(x, c, mask)
        matrices = torch.linalg.qr(torch.randn(3, 3, 3, dtype=torch.float64)).Q
        turned = network(named({**dict(x.items()), "positions": x["positions"] @ matrices}), c, mask)
        moved = network(named({**dict(x.items()), "properties": x["properties"] + 1}), c, mask)
    torch.testing.assert_close(turned["properties"], plain["properties"])
    torch.testing.assert_close(turned["positions"], plain["positions"] @ matrices)
    assert not torch.allclose(moved["atoms"], plain["atoms"], atol=1e-6)
    assert dict(network.views).keys() == {"atoms", "charges", "bonds"}


def test_molecules_are_drawn_for_a_table_and_files_say_for_what(run, tmp_path):
    table = tmp_path / "wanted.csv"
    table.write_text("tpsa,name,logp\n40,first,1.5\n20,second,-1\n")
    out = tmp_path / "drawn.sdf"
    flags = ["--given", f"properties={table}", "--n", "2", "--steps", "2", "--out", str(out)]
    assert cli.main(["sample", str(run.path), *flags]) == 0
    fields = [
        {line[4:-1]: value for line, value in itertools.pairwise(lines) if line.startswith(">  <")}
        for lines in (record.splitlines() for record in out.read_text().split("$$$$\n")[:-1])
    ]
    drawn = [(float(each["drawn_logp"]), float(each["drawn_tpsa"])) for each in fields]
    np.testing.assert_allclose(drawn, [(1.5, 40), (1.5, 40), (-1, 20), (-1, 20)], rtol=1e-5)
    values = run.given({"properties": table}, 1, steps=2).scores(["drawn_logp"])
    assert values["drawn_logp"] == pytest.approx([1.5, -1.0], rel=1e-5)


def test_properties_are_drawn_for_the_molecules_of_a_file(run, tmp_path):
    encoded = run.model.codec.encode(run.data.held_out[:3])
    real = run.model.codec.decode(encoded.state, encoded.mask)
    path = tmp_path / "real.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for molecule in real:
            writer.write(to_rdkit(molecule))
    drawn = run.given({"molecule": path}, 2, steps=2)
    assert len(drawn) == 6
    for row, molecule in enumerate(drawn.decoded):
        assert molecule.numbers.tolist() == real[row // 2].numbers.tolist()
        assert (molecule.bonds == real[row // 2].bonds).all()
        np.testing.assert_allclose(
            molecule.positions - molecule.positions.mean(0),
            real[row // 2].positions - real[row // 2].positions.mean(0),
            atol=2e-4,
        )


def test_the_errors_are_those_of_a_calculation_by_hand(data):
    codec = MoleculeCodec(data.facts)
    encoded = codec.encode(data.examples[:40])
    real = codec.decode(encoded.state, encoded.mask)
    true = torch.tensor([each.properties["logp"] for each in real], dtype=torch.float64)
    more = [{**each.properties, "logp": value + 0.5} for each, value in zip(real, true.tolist(), strict=True)]
    shifted = [replace(each, properties=values) for each, values in zip(real, more, strict=True)]
    found = {metric.name: metric.value for metric in drawn_values(shifted, real, data.facts.joint)}
    assert found["properties_logp_mae"] == pytest.approx(0.5)
    assert found["properties_tpsa_mae"] == 0
    assert found["properties_logp_mean_mae"] == pytest.approx((true - data.facts.joint[0].mean).abs().mean().item())
    measured = {"logp": true + 0.25}
    measured["logp"][3] = torch.nan
    found = {metric.name: metric.value for metric in obtained_values(measured, real, data.facts, {})}
    assert found["molecule_logp_mae"] == pytest.approx(0.25)
    assert found["molecule_logp_mae_shuffled"] > 0.5
    means = {}
    for size, value in zip(
        (data.examples["numbers"] > 0).sum(1).tolist(), data.examples["properties"][:, 0], strict=True
    ):
        means.setdefault(size, []).append(value.item())
    guesses = torch.tensor([sum(means[len(each)]) / len(means[len(each)]) for each in real], dtype=torch.float64)
    assert found["molecule_logp_mae_size_only"] == pytest.approx((guesses - true).abs().mean().item(), rel=1e-5)
    assert not any("tpsa" in name for name in found)


def test_molecules_without_a_value_are_left_out_and_named(tmp_path):
    path = tmp_path / "list.csv"
    rows = [f"{'C' * (count % 5 + 2)}O,{count}" for count in range(20)]
    rows[4] = "CCCO,"
    path.write_text("\n".join(["smiles,activity", *rows]))
    data = datasets.smiles(SmilesOptions(path=str(path), joint=("activity",), held_out=0.2))
    (names,) = [found for why, found in data.ledger.passed_over.items() if "data.joint" in why]
    assert len(names) == 1
    assert data.examples["properties"].isfinite().all()
    assert [item.name for item in data.facts.joint] == ["activity"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("logp,qed\n1,2\n", "has no column 'tpsa'"),
        ("logp,tpsa\n", "has no rows"),
        ("", "is empty"),
        ("logp,tpsa\n1,2\n1,many\n", "row 3: tpsa is 'many', not a number"),
        ("logp,tpsa\n1\n", "row 2: tpsa is '', not a number"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, content, message):
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_values(path, NAMES)


def test_what_a_joint_state_cannot_do_is_refused(tmp_path):
    train = {"steps": 1, "evaluate": 0}
    for more, message in (
        ({"levels": {"known": 0.4}}, "takes no known"),
        ({"task": {"name": "denoise", "self_conditioning": 0.5}}, "takes no estimate"),
        ({"data": {"joint": ("logp", "nothing")}}, "nothing"),
    ):
        options = {"data": {"joint": NAMES}, **more}
        with pytest.raises(UserError, match=message):
            dc.train("molecule", preset="joint", out=tmp_path / "run", train=train, **options)


def test_files_of_molecules_alone_are_refused(run, tmp_path):
    path = tmp_path / "real.sdf"
    encoded = run.model.codec.encode(run.data.held_out[:1])
    with Chem.SDWriter(str(path)) as writer:
        writer.write(to_rdkit(run.model.codec.decode(encoded.state, encoded.mask)[0]))
    graphs = tmp_path / "graphs.smi"
    graphs.write_text("CCO\n")
    for refused in (
        lambda: run.inpaint(path),
        lambda: run.vary(path),
        lambda: run.between(path, path),
        lambda: given_by(run.model, "conformers", graphs),
    ):
        with pytest.raises(UserError, match="says nothing of the properties"):
            refused()
