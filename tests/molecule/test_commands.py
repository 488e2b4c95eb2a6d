"""The commands as a user types them, on the included molecules and on a file of the user."""

import csv
import importlib.util
import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from rdkit import Chem
from rdkit.Chem import AllChem, Crippen, rdMolDescriptors
from scipy import stats
from scipy.spatial.distance import cdist

import diffcore as dc
from diffcore.api import training
from diffcore.cli import main
from diffcore.denoising.sizes import Sizes
from diffcore.plugins.building import part_of
from diffcore.runs.measurements import inpainting_of
from diffcore.sampling.inverse.operators import KeepElements, keep
from diffcore.states.state import concatenate, fields
from diffcore_molecule.chemistry import properties
from diffcore_molecule.chemistry.matching import matched
from diffcore_molecule.chemistry.molecules import Molecule, from_rdkit
from diffcore_molecule.data.graphs import with_stereo
from diffcore_molecule.data.part import around
from diffcore_molecule.data.part import part_of as part_read
from diffcore_molecule.evaluation import plausibility
from tests.support import refusals
from tests.support.rough_tuning import rough_tuning

SMALL = ["--train.batch-size", "8", "--train.log-every", "5", "--train.evaluate", "0", "--sample.steps", "3"]
NETWORK = ["depth", "1", "width", "16", "heads", "4", "pair-width", "16", "inner", "4"]
OWN = ["CCO", "CCN", "CCC", "CC=O", "C#CC", "CCOC", "CCCN", "C1CC1", "CC(C)O", "OCC=O", "NCC=O", "C1CCC1", "CC#N"]


def tiny(part="denoiser"):
    """Flags of a network that trains fast."""
    pairs = zip(NETWORK[::2], NETWORK[1::2], strict=True)
    return [word for name, value in pairs for word in (f"--{part}.{name}", value)]


def train(out, *flags, network="denoiser"):
    command = ["train", "--modality", "molecule", "--out", out, *tiny(network), *SMALL, "--train.steps", 6, *flags]
    assert main([str(word) for word in command]) == 0
    return out


def sample(run, *flags):
    assert main(["sample", str(run), *map(str, flags)]) == 0


def refused(capsys, *arguments):
    """The error line of a mistake, which must not be long."""
    line = refusals.refused(capsys, *arguments)
    assert len(line) < 500
    return line


def write_sdf(path, smiles):
    """A file of molecules with 3D coordinates."""
    with Chem.SDWriter(str(path)) as writer:
        for words in smiles:
            mol = Chem.AddHs(Chem.MolFromSmiles(words))
            assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
            writer.write(mol)
    return path


@pytest.fixture(scope="module", autouse=True)
def without_posebusters():
    """Its checks take 20 s for 40 samples. `test_evaluator` and `test_metrics` test them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plausibility, "available", lambda: False)
        yield


@pytest.fixture(scope="module", autouse=True)
def fewer_checked():
    """Metrics of fewer molecules; tests/molecule/test_evaluator.py looks at their values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffcore_molecule.evaluation.evaluator._MAX_CHECKED", 5)
        patch.setattr("diffcore_molecule.evaluation.evaluator._REAL_SAMPLES", 100)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The default preset with fewer steps."""
    out = tmp_path_factory.mktemp("runs") / "default"
    return train(out, "--train.steps", "30", "--train.evaluate", "40")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_sdf(tmp_path_factory.mktemp("own") / "own.sdf", OWN)


@pytest.fixture(scope="module")
def own(file, tmp_path_factory):
    """A run on a file of the user."""
    return train(tmp_path_factory.mktemp("runs") / "own", "--data", "sdf", "--data.path", file)


@pytest.fixture(scope="module")
def unconditional(file, tmp_path_factory):
    """The same run without conditions."""
    out = tmp_path_factory.mktemp("runs") / "unconditional"
    return train(out, "--data", "sdf", "--data.path", file, "--data.properties")


@pytest.fixture(scope="module")
def regressor(file, tmp_path_factory):
    """A noisy classifier trained on the same molecules."""
    flags = ["--preset", "regressor", "--data", "sdf", "--data.path", file, "--train.steps", "20"]
    return train(tmp_path_factory.mktemp("runs") / "regressor", *flags, network="classifier")


# What works


def test_the_report_shows_molecules_and_needs_no_network(run):
    page = (run / "report.html").read_text()
    assert not re.search(r"https?://|src=\"(?!data:)|@import|<link", page)
    for part in ("From noise to data", "<canvas", '<th scope="row">valid</th>', "logp_mae_size_only", "[denoiser]"):
        assert part in page
    assert (run / "samples" / "step-00000030.png").is_file()


def test_samples_are_written_in_the_formats_of_chemists(run, tmp_path):
    sample(run, "--n", 5, "--size", 7, "--out", tmp_path / "out")
    names = [path.name for path in sorted((tmp_path / "out").iterdir())]
    assert names == [*(f"{k:04d}.sdf" for k in range(5)), "overview", "recipe.json"]
    (mol,) = Chem.SDMolSupplier(str(tmp_path / "out" / "0003.sdf"), sanitize=False)
    assert mol.GetNumAtoms() == 7
    assert not [name for name in mol.GetPropNames() if name.startswith("asked_")]
    for size in (4, 5):
        for ending in ("sdf", "smi", "png"):
            sample(run, "--n", 40, "--size", size, "--out", tmp_path / f"all.{ending}", "--replace")
        mols = list(Chem.SDMolSupplier(str(tmp_path / "all.sdf"), sanitize=False))
        assert [mol.GetNumAtoms() for mol in mols] == [size] * 40
        valid = [mol for mol in mols if mol.GetProp("VALID") == "1"]
        assert 0 < len(valid) < 40  # so short a training does not always get bonds right
        lines = [line.split() for line in (tmp_path / "all.smi").read_text().splitlines()]
        assert lines == [[mol.GetProp("SMILES"), mol.GetProp("_Name")] for mol in valid]
    assert numpy.asarray(Image.open(tmp_path / "all.png").convert("L")).std() > 1


def test_molecules_of_any_program_are_judged(own, file, capsys):
    """Compared with the data of a run: the file's own molecules are valid, and not new."""
    capsys.readouterr()
    assert main(["judge", str(file), "--json", "--run", str(own)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["valid"], found["unique"], found["samples"]) == (1, 1, 13)
    assert found["novel"] <= 2 / 13  # a tenth of the molecules is held out


def test_a_chemist_s_table(run, tmp_path, capsys, monkeypatch):
    """Only valid and different molecules, the nearest to the target first, with a function of the user."""
    monkeypatch.setattr(properties, "_registered", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def carbons(mol):\n    return sum(a.GetSymbol() == 'C' for a in mol.GetAtoms())\n"
    )
    keep = "valid, unique, carbons>=1, no PAINS"
    flags = ["--n", 6, "--size", 4, "--target", "logp=0.5", "--keep", keep, "--rank", "targets"]
    sample(run, *flags, "--property", "carbons=mine:carbons", "--columns", "+formula", "--out", "mols.csv")
    said = capsys.readouterr().err
    assert "6 samples are kept of" in said
    assert "unique holds for" in said
    with (tmp_path / "mols.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == list("123456")
    assert len({row["inchikey"] for row in rows}) == 6
    for row in rows:
        mol = Chem.MolFromSmiles(row["smiles"])
        assert (row["valid"], row["asked_logp"], row["PAINS"]) == ("1", "0.5", "0")
        assert row["formula"] == rdMolDescriptors.CalcMolFormula(mol)
        assert int(float(row["carbons"])) == sum(atom.GetSymbol() == "C" for atom in mol.GetAtoms()) >= 1
    distances = [abs(float(row["logp"]) - 0.5) for row in rows]
    assert distances == sorted(distances)


def test_a_search_for_molecules_from_a_lead(run, part, tmp_path, capsys, monkeypatch):
    """From a lead, samples stay similar to it; by a function of the user, with what was judged beside the result."""
    monkeypatch.chdir(tmp_path)
    Path("mine_opt.py").write_text("def carbons(mol):\n    return sum(a.GetAtomicNum() == 6 for a in mol.GetAtoms())\n")
    lead = Chem.MolFromMolFile(str(part))
    flags = ["--property", "mine_opt:carbons", "--from", part, "--strength", 0.05, "--rounds", 2, "--per-round", 4]
    flags += ["--keep", "similarity>0.99", "--n", 3, "--out", "best.csv"]
    assert main(["optimise", str(run), *map(str, flags)]) == 0
    assert "round 2 of 2: best" in capsys.readouterr().err
    with Path("best.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["smiles"] for row in rows] == [Chem.MolToSmiles(lead)]  # equal molecules count once
    assert (rows[0]["value"], rows[0]["round"], rows[0]["number"]) == (rows[0]["mine_opt:carbons"], "0", "1")
    with Path("best.search/candidates.csv").open(newline="") as file:
        judged = list(csv.DictReader(file))
    assert [row["round"] for row in judged] == [*"011112222"]
    flags[flags.index("--n") + 1] = 2
    assert "best.csv exists already" in refused(capsys, "optimise", run, *flags)
    assert main(["optimise", str(run), *map(str, flags), "--replace"]) == 0
    Path("best.csv").unlink()
    before = Path("best.search/candidates.csv").stat().st_mtime_ns
    assert main(["optimise", str(run), *map(str, flags)]) == 0  # as after an interruption; nothing is drawn again
    assert Path("best.search/candidates.csv").stat().st_mtime_ns == before
    assert "similarity" in refused(capsys, "optimise", run, "--property", "qed", "--keep", "similarity>1", "--out", "b")
    assert "--property says what is optimised" in refused(capsys, "optimise", run)


def test_mistakes_of_tables_and_conditions(run, tmp_path, capsys):
    command = ("sample", run, "--n", 2, "--out")
    for out, flags, said in (
        ("a.csv", ("--columns", "smils"), "unknown value 'smils' (did you mean 'smiles'?); there are: valid, smiles"),
        ("a.csv", ("--keep", "qad>0.5"), "unknown value 'qad' (did you mean 'qed'?)"),
        ("a.csv", ("--keep", "gap>0.5"), "the property 'gap' comes from DFT"),
        ("a.sdf", ("--columns", "smiles"), "--columns is for tables: give an --out that ends in .csv, .tsv, .parquet"),
        ("a.csv", ("--rank", "targets"), "--rank targets needs a number that is asked for"),
        ("a.csv", ("--property", "logp=math:sqrt"), "the property 'logp' exists already"),
    ):
        assert said in refused(capsys, *command, tmp_path / out, *flags)
    assert not list(tmp_path.iterdir())


def test_targets_are_written_and_measured(run, tmp_path, capsys):
    targets = ("--target", "logp=0.5", "--target", "tpsa=40..60", "--guidance", "2", "--size", 4, "--n", 40)
    capsys.readouterr()
    sample(run, *targets, "--out", tmp_path / "all.sdf")
    message = capsys.readouterr().err.splitlines()
    mols = list(Chem.SDMolSupplier(str(tmp_path / "all.sdf"), sanitize=False))
    assert {mol.GetProp("asked_logp") for mol in mols} == {"0.5"}
    asked = numpy.array([float(mol.GetProp("asked_tpsa")) for mol in mols])
    assert len(set(asked)) > 20
    assert asked.min() >= 40
    assert asked.max() <= 60
    assert not any(mol.HasProp("asked_qed") for mol in mols)
    valid = [mol for mol in mols if mol.GetProp("VALID") == "1"]
    assert len(valid) > 2
    logp, tpsa = [], []
    for mol in valid:
        plain = Chem.MolFromSmiles(mol.GetProp("SMILES"))
        logp.append(Crippen.MolLogP(plain))
        tpsa.append(rdMolDescriptors.CalcTPSA(plain))
        assert float(mol.GetProp("logp")) == pytest.approx(logp[-1], abs=1e-5)
    assert any(line.startswith(f"{len(valid)} of 40 samples are valid") for line in message)
    (line,) = [line for line in message if line.startswith("logp: ")]
    assert line.startswith(f"logp: asked 0.5, obtained {numpy.mean(logp):.4g} +- {numpy.std(logp):.3g} (mean and")
    (line,) = [line for line in message if line.startswith("tpsa: ")]
    targets_of_valid = asked[[mol.GetProp("VALID") == "1" for mol in mols]]
    assert line.endswith(f"mean absolute error {numpy.abs(targets_of_valid - tpsa).mean():.3g}")
    sample(run, *targets, "--out", tmp_path / "out")
    first = sorted((tmp_path / "out").glob("*.sdf"))[0]
    assert first.name == f"0000-logp=0.5-tpsa={asked[0]:.4g}.sdf"


def test_a_target_outside_the_data_is_drawn_with_a_warning(run, tmp_path, capsys):
    capsys.readouterr()
    sample(run, "--n", 2, "--target", "logp=40", "--out", tmp_path / "out")
    assert re.search(
        r"logp: 2 of 2 requested values lie outside .* training examples, -3\.9\d* to 3\.6", capsys.readouterr().err
    )
    assert len(list((tmp_path / "out").glob("*-logp=40.sdf"))) == 2


FRACTIONS = (
    "valid",
    "unique",
    "novel",
    "v_u",
    "v_u_n",
    "radicals",
    "edm_valid",
    "stable_strict",
    "stable_atoms_strict",
)
BOUNDS = ("logp_mae_shuffled", "logp_mae_size_only", "tpsa_mae_size_only")


def test_evaluate_prints_metrics(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    capsys.readouterr()
    assert main(["evaluate", str(copy), "--n", "40", "--steps", "3", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    fractions = [name for name in metrics if name in FRACTIONS or "_measured_" in name]
    assert {*FRACTIONS, "logp_measured_conditional", "qed_measured_guided"} <= {*fractions}
    assert all(0 <= metrics[name] <= 1 for name in fractions)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["logp_mae_size_only"] < metrics["logp_mae_shuffled"]
    assert metrics["v_u_n"] <= metrics["v_u"] <= metrics["valid"]


def test_tune_then_sample(own, tmp_path, capsys, monkeypatch):
    rough_tuning(monkeypatch)
    copy = shutil.copytree(own, tmp_path / "copy")
    command = ["tune", str(copy), "--steps", "4", "--trajectories", "3", "--iterations", "1"]
    assert main(command) == 0
    capsys.readouterr()
    sample(copy, "--n", 2, "--steps", 4)
    assert "4 steps of adams on a fitted grid" in capsys.readouterr().err


def test_resume_continues_the_run(own, tmp_path):
    copy = shutil.copytree(own, tmp_path / "copy")
    assert main(["resume", str(copy), "--train.steps", "10"]) == 0
    rows = [json.loads(line) for line in (copy / "train_log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10]


def test_a_regressor_guides_a_model_without_conditions(unconditional, regressor, tmp_path, capsys):
    assert json.loads((unconditional / "config.json").read_text())["settings"]["data"]["properties"] == []
    asked = ("--n", 6, "--size", 4, "--target", "logp=1.5")
    sample(
        unconditional, *asked, "--classifier", regressor, "--classifier-weight", 50, "--out", tmp_path / "guided.sdf"
    )
    sample(unconditional, "--n", 6, "--size", 4, "--out", tmp_path / "plain.sdf")
    guided, plain = (
        list(Chem.SDMolSupplier(str(tmp_path / f"{name}.sdf"), sanitize=False)) for name in ("guided", "plain")
    )
    assert {mol.GetProp("asked_logp") for mol in guided} == {"1.5"}
    assert not any(mol.HasProp("asked_logp") for mol in plain)
    positions = [[mol.GetConformer().GetPositions() for mol in mols] for mols in (guided, plain)]
    assert numpy.abs(numpy.array(positions[0]) - numpy.array(positions[1])).max() > 0.01
    assert "unknown condition 'logp'; this model takes: none" in refused(capsys, "sample", unconditional, *asked)
    assert "has the task classify, which draws no samples" in refused(capsys, "sample", regressor)


@pytest.mark.parametrize("flags", [["--denoiser", "transformer"], ["--data.hydrogens"]])
def test_other_networks_and_data(file, tmp_path, flags):
    out = train(tmp_path / "run", "--data", "sdf", "--data.path", file, *flags)
    sample(out, "--n", 4, "--target", "logp=0", "--out", tmp_path / "all.sdf")
    mols = list(Chem.SDMolSupplier(str(tmp_path / "all.sdf"), sanitize=False, removeHs=False))
    symbols = {atom.GetSymbol() for mol in mols for atom in mol.GetAtoms()}
    assert ("H" in symbols) == ("--data.hydrogens" in flags)
    assert "<canvas" in (out / "report.html").read_text()


# The example


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).parents[2] / "examples" / "molecules_with_target_properties.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[path.stem]


def test_the_example_compares_targets_with_what_was_drawn(example, run, tmp_path, capsys):
    capsys.readouterr()
    rows = example.main(["--run", str(run), "--n", "6", "--out", str(tmp_path)])
    mols = list(Chem.SDMolSupplier(str(tmp_path / "targets.sdf"), sanitize=False))
    asked = [row.asked for row in rows]
    assert asked == sorted(asked)
    assert [float(mol.GetProp("asked_logp")) for mol in mols] == pytest.approx(numpy.repeat(asked, 6), rel=1e-6)
    for k, row in enumerate(rows):
        own = [mol for mol in mols[6 * k : 6 * k + 6] if mol.GetProp("VALID") == "1"]
        values = [float(mol.GetProp("logp")) for mol in own]
        assert row.valid == len(own) / 6
        assert row.obtained.tolist() == pytest.approx(values, abs=1e-4)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["asked", "obtained"]
    assert [float(line.split()[0]) for line in lines[1:6]] == pytest.approx(asked, abs=0.05)
    assert numpy.asarray(Image.open(tmp_path / "targets.png").convert("L")).std() > 1


def test_the_example_s_bounds_are_those_of_normal_values(example):
    """Compared with quadrature, and with explicit probabilities of sizes by Bayes' rule."""
    sizes = Sizes(3, {1: 5, 2: 20, 3: 10}, {"logp": [(-1.0, 0.5), (0.2, 1.0), (1.5, 2.0)]})
    y = numpy.linspace(-30, 30, 600_001)
    normals = [stats.norm(mean, std) for mean, std in sizes.about["logp"]]
    targets = [-2.0, 0.2, 1.0]
    expected = []
    for target in targets:
        weights = numpy.array([n.pdf(target) * count for n, count in zip(normals, (5, 20, 10), strict=True)])
        errors = [numpy.trapezoid(numpy.abs(y - target) * n.pdf(y), y) for n in normals]
        expected.append(weights @ errors / weights.sum())
    assert example.errors_by_size(sizes, torch.tensor(targets)) == pytest.approx(expected, rel=1e-5)
    within = [numpy.trapezoid(numpy.abs(y - n.mean()) * n.pdf(y), y) for n in normals]
    assert example.error_of_a_guess(sizes) == pytest.approx(numpy.array([5, 20, 10]) @ within / 35, rel=1e-5)


def test_the_example_trains_if_no_run_is_given(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = training.train
    fewer = {"batch_size": 8, "evaluate": 0}
    monkeypatch.setattr(
        training, "train", lambda kind, train: whole(kind, train={**train, **fewer}, sample={"steps": 3})
    )
    assert len(example.main(["--steps", "5", "--n", "1"])) == 5
    assert (tmp_path / "runs" / "molecule" / "default-1" / "targets.png").is_file()


def test_properties_of_any_name_can_be_trained_on_and_asked_for(file, tmp_path, monkeypatch, capsys):
    """`half` is an attribute of modules, a dot parts their names, and `gap` is one of QM9's properties."""
    monkeypatch.setattr(properties, "_registered", {})
    names = ["logD7.4", "half", "gap", "VALID", "猫"]
    for name in names:
        properties.register(name, Crippen.MolLogP, "units")
    flags = ["--data", "sdf", "--data.path", file, "--train.evaluate", 2, "--data.properties", *names]
    out = train(tmp_path / "run", *flags)
    rows = {row["name"]: row for row in json.loads((out / "metrics.json").read_text())}
    assert {f"{name}_w1" for name in names} <= rows.keys()
    assert not [name for name in rows if "regressor" in name]
    facts = json.loads((out / "config.json").read_text())["facts"]["properties"]
    assert [(item["name"], item["unit"], item["from_qm9"]) for item in facts] == [(n, "units", False) for n in names]
    asked = [word for name in names for word in ("--target", f"{name}=1.5")]
    sample(out, "--n", 2, "--out", tmp_path / "new", *asked)
    paths = sorted((tmp_path / "new").glob("*.sdf"))
    assert paths[0].name.startswith("0000-logD7.4=1.5-half=1.5-gap=1.5-VALID=1.5-猫=1.5")
    fields = next(iter(Chem.SDMolSupplier(str(paths[0]), sanitize=False))).GetPropsAsDict()
    assert fields["VALID"] in (0, 1)
    assert {f"asked_{name}" for name in names if name != "猫"} <= fields.keys()
    assert "did you mean 'logD7.4'" in refused(capsys, "sample", out, "--target", "logd7.4=1")


# What does not


def test_broken_records_are_named_and_the_others_are_used(file, tmp_path, capsys):
    records = file.read_text().split("$$$$\n")
    records[2] = "\nnot a\nmolecule\n"
    records[5] = records[5].replace(" C ", " Xx", 1)
    (tmp_path / "some.sdf").write_text("$$$$\n".join(records))
    capsys.readouterr()
    out = train(tmp_path / "run", "--data", "sdf", "--data.path", tmp_path / "some.sdf")
    message = capsys.readouterr().err
    assert "passed over: not a molfile: " in message
    assert "1 (record 3)" in message
    assert "1 (record 6)" in message
    assert "11 examples" in message
    sample(out, "--n", 1, "--out", tmp_path / "out")


def test_files_without_molecules(tmp_path, capsys):
    command = ("train", "--modality", "molecule", "--data", "sdf", "--out", tmp_path / "new", "--train.steps", 3)
    empty, blank, broken = tmp_path / "empty.sdf", tmp_path / "blank.sdf", tmp_path / "broken.sdf"
    empty.write_text("")
    blank.write_text("\n\n")
    broken.write_text("\nnot a\nmolecule\n$$$$\n")
    assert f"{empty} is empty" in refused(capsys, *command, "--data.path", empty)
    assert f"no molecules in {blank}: there is no record with a molecule" in refused(
        capsys, *command, "--data.path", blank
    )
    message = refused(capsys, *command, "--data.path", broken)
    assert f"no molecules in {broken}: 1 of 1 molecules are left out: not a molfile: " in message
    assert f"no file {tmp_path / 'none.sdf'}: --data.path must be" in refused(
        capsys, *command, "--data.path", tmp_path / "none.sdf"
    )
    assert "needs --data.path, a file that ends in .sdf, .sd, .mol, .mdl, .mol2, also with .gz" in refused(
        capsys, *command
    )
    assert not (tmp_path / "new").exists()


def test_properties_that_do_not_exist(tmp_path, capsys):
    command = ("train", "--modality", "molecule", "--out", tmp_path / "new", "--train.steps", 3, "--data.properties")
    message = refused(capsys, *command, "logp", "tspa")
    assert (
        "--data.properties: unknown property 'tspa' (did you mean 'tpsa'?); properties are logp, tpsa, qed, weight"
        in message
    )
    assert "only the data set qm9 has it" in refused(capsys, *command, "gap")
    assert not (tmp_path / "new").exists()


def test_targets_and_sizes_that_a_model_has_not(run, tmp_path, capsys):
    command = ("sample", run, "--n", 2, "--out", tmp_path / "new")
    for flags, said in (
        (("--target", "gap=2"), "unknown condition 'gap'; this model takes: logp, tpsa, qed"),
        (("--target", "logp"), "--target 'logp': write it as key=2.5, or key=40..60"),
        (("--target", "logp=high"), "logp=high: write a number such as 2.5, or a range such as 40..60"),
        (("--target",), "'--target'"),
        (("--guidance", 2), "the guidance classifier-free (weight 2) needs conditions, and none is given"),
        (("--inpaint", tmp_path / "a.sdf"), "a.sdf cannot be read: "),
    ):
        assert said in refused(capsys, *command, *flags)
    assert not (tmp_path / "new").exists()
    assert "--size 12: the training examples have other sizes: " in refused(capsys, *command, "--size", 12)
    said = refused(capsys, "sample", run, "--out", tmp_path / "all.xyz")
    assert "all.xyz: molecule writes .png, .sdf, .smi, .csv, .tsv, .parquet, or several files to a folder" in said


@pytest.fixture
def part(tmp_path):
    """The ring and the oxygen of a molecule, without hydrogens: C1CC1O."""
    mol = Chem.MolFromSmiles("OC1CC1")
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    Chem.MolToMolFile(mol, str(tmp_path / "part.mol"))
    return tmp_path / "part.mol"


@pytest.mark.parametrize("how", ["inpaint", "guide"])
def test_samples_are_drawn_around_a_part(run, part, how):
    """`--inpaint` puts in the atoms, their bonds and their distances exactly; guidance steers towards them."""
    run = dc.load(run)
    values, known = part_of(run.model.modality, "reader", run.model.codec).read_part(part)
    operator = keep(known, run.model.codec.space)
    assert isinstance(operator, KeepElements)
    plain = run.sample(6, steps=4, solver="ddpm", conditions={"logp": 1.0}, guides=[])
    if how == "inpaint":
        found = run.sample(6, steps=4, conditions={"logp": 1.0}, guides=[], constraint=inpainting_of(run.model, part))
    else:
        guides = [{"name": "keep-elements", "file": str(part)}]
        found = run.sample(6, steps=4, solver="ddpm", conditions={"logp": 1.0}, guides=guides)
    assert found.mask[:, :4].all()
    wanted = operator(values)

    def off(samples):
        return max(
            (value - fields(wanted)[name]).abs().max().item() for name, value in fields(operator(samples.state)).items()
        )

    if how == "guide":
        assert off(found) < 0.5 * off(plain)
        return
    assert off(found) < 1e-4
    original = part_molecule(part)
    for molecule in found.decoded:
        assert molecule.numbers[:4].tolist() == original.numbers.tolist() == [8, 6, 6, 6]
        assert (molecule.bonds[:4, :4] == original.bonds).all()
        distances, expected = (cdist(m.positions[:4], m.positions[:4]) for m in (molecule, original))
        assert abs(distances - expected).max() < 1e-2


def part_molecule(path):
    return from_rdkit(Chem.MolFromMolFile(str(path)))


def test_a_part_by_flags_and_what_cannot_be_one(run, part, tmp_path, capsys):
    for flags in (["--inpaint", part], ["--guide", "keep-elements", "--guide.file", part]):
        out = tmp_path / f"{flags[0][2:]}.sdf"
        sample(run, "--n", 3, "--target", "logp=1", *flags, "--out", out)
        assert len(Chem.SDMolSupplier(str(out), sanitize=False, removeHs=False)) == 3
    text, drawing = part.read_text(), Chem.MolFromSmiles("OC1CC1")
    AllChem.Compute2DCoords(drawing)
    flat = Chem.MolToMolBlock(drawing)
    for content, said in (
        (text.replace(" O ", " S "), "has S; molecules of this model have C, N, O, F"),
        (flat, "no 3D coordinates"),
        ("", "has no molecules; give a file with a part of one"),
        (f"{text}$$$$\n{text}", "has 2 molecules, and atoms of number 1 and 2 are in the same place"),
        ("nonsense\n" * 5, "cannot be used: not a molfile"),
    ):
        (tmp_path / "other.sdf").write_text(content)
        assert said in refused(capsys, "sample", run, "--inpaint", tmp_path / "other.sdf")
    assert "must end in .sdf" in refused(capsys, "sample", run, "--inpaint", tmp_path / "other.xyz")
    large = write_sdf(tmp_path / "large.sdf", ["CCCCCCCCCCCC"])
    assert "has 12 atoms; molecules of this model have at most" in refused(capsys, "sample", run, "--inpaint", large)


def test_networks_of_other_elements_cannot_guide(own, regressor, tmp_path, capsys):
    other = write_sdf(tmp_path / "other.sdf", [words.replace("O", "S") for words in OWN])
    flags = ["--data", "sdf", "--data.path", other, "--train.steps", "2"]
    teller = train(tmp_path / "teller", "--preset", "regressor", *flags, network="classifier")
    weak = train(tmp_path / "weak", *flags)
    for flag, helper in (("--classifier", teller), ("--weak", weak)):
        said = refused(capsys, "sample", own, flag, helper, "--target", "logp=1")
        assert f"the run {helper} was trained on data of a different form than this model: atoms" in said
        assert "(C, N, S), not 4 x 3 (C, N, O)" in said
    sample(own, "--classifier", regressor, "--target", "logp=1", "--n", 1, "--out", tmp_path / "out")


def test_data_that_are_gone_or_others(file, tmp_path, capsys):
    mine = shutil.copy(file, tmp_path / "mine.sdf")
    out = train(tmp_path / "run", "--data", "sdf", "--data.path", mine)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    commands = (("evaluate", out, "--n", 4), ("resume", out, "--train.steps", 9))
    mine.unlink()
    for command in commands:
        said = refused(capsys, *command)
        assert f"{out} needs the data that it was trained on: no file {mine}" in said
    write_sdf(mine, [words.replace("O", "S") for words in OWN])
    for command in commands:
        assert f"{out} was trained on other data than" in refused(capsys, *command)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    sample(out, "--n", 1, "--out", tmp_path / "out")


def read_all(path):
    return [from_rdkit_unchecked(mol) for mol in Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False)]


def from_rdkit_unchecked(mol):
    """Elements, bond orders and positions of a record that need not be a valid molecule."""
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    bonds = {frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())): b.GetBondTypeAsDouble() for b in mol.GetBonds()}
    return numbers, bonds, mol.GetConformer().GetPositions()


def test_a_part_grows_and_stays_where_the_file_has_it(run, part, tmp_path):
    original = from_rdkit_unchecked(Chem.MolFromMolFile(str(part)))
    sample(run, "--n", 3, "--inpaint", part, "--grow", "2..3", "--steps", 3, "--out", tmp_path / "grown.sdf")
    for numbers, bonds, positions in read_all(tmp_path / "grown.sdf"):
        assert len(numbers) in (6, 7)
        assert numbers[:4] == original[0]
        assert {pair: order for pair, order in bonds.items() if max(pair) < 4} == original[1]
        assert abs(positions[:4] - original[2]).max() < 1e-4  # the digits of the file
    # The oxygen is drawn anew, as one of three new atoms; the ring is first, at its place and in its order.
    flags = ["--inpaint", part, "--free", "1", "--grow", 3, "--steps", 3]
    sample(run, "--n", 3, *flags, "--out", tmp_path / "replaced.sdf")
    for numbers, bonds, positions in read_all(tmp_path / "replaced.sdf"):
        assert len(numbers) == 6
        assert {pair for pair in bonds if max(pair) < 3} == {frozenset(pair) for pair in ((0, 1), (0, 2), (1, 2))}
        assert abs(positions[:3] - original[2][1:4]).max() < 1e-4
        # Only the carbon that the oxygen was bound to may bind to new atoms.
        assert {min(pair) for pair in bonds if min(pair) < 3 <= max(pair)} <= {0}


@pytest.mark.parametrize(
    ("smiles", "flags", "open_atoms"),
    [
        ("CC(C)(C)C", {}, [0, 2, 3, 4]),  # the carbon with four bonds is full
        ("[*]CCO", {}, [0]),  # a dummy atom; it is removed
        ("CC[N+](C)(C)C", {"attach": [2]}, [1]),
        ("CC(=O)C1CC1", {"free": [1]}, [0]),  # the carbonyl carbon, to which the removed one was bound
    ],
)
def test_only_atoms_with_room_or_attachment_points_bind_to_new_ones(run, tmp_path, smiles, flags, open_atoms):
    mol = Chem.MolFromSmiles(smiles)
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    Chem.MolToMolFile(mol, str(tmp_path / "part.mol"))
    part = around(part_read(Chem.MolFromMolFile(str(tmp_path / "part.mol")), False), **flags)
    assert part.open.nonzero()[0].tolist() == open_atoms
    assert (part.molecule.numbers > 0).all()


def test_closed_atoms_of_a_part_are_known_to_have_no_bond(run, part):
    """`--attach 1` lets new atoms bind to the oxygen alone, by every method."""
    run = dc.load(run)
    for method in ("mmps", "repaint"):
        constraint = inpainting_of(run.model, part, method=method, resamplings=1, attach="1")
        drawn = run.sample(4, steps=3, size=6, conditions={"logp": 1.0}, guides=[], constraint=constraint)
        for molecule in drawn.decoded:
            assert not molecule.bonds[1:4, 4:].any()
            assert (molecule.bonds[:4, :4] == part_molecule(part).bonds).all()


def test_conformers_have_the_graph_and_the_stereochemistry_of_their_smiles(run, own, tmp_path, capsys):
    (tmp_path / "in.smi").write_text("OC1CC1 ring\n\nC[C@H](O)N\n")
    sample(run, "--conformers", tmp_path / "in.smi", "--n", 2, "--steps", 3, "--out", tmp_path / "out.sdf")
    found = [Chem.MolToSmiles(mol) for mol in Chem.SDMolSupplier(str(tmp_path / "out.sdf"))]
    assert found == ["OC1CC1"] * 2 + [Chem.CanonSmiles("C[C@H](O)N")] * 2
    for text, said in (
        ("CO\nCX", "in.smi, line 2: not a SMILES"),
        ("CO\n\nC.O", "in.smi, line 3: several pieces"),
        ("C[Se]C", "in.smi, line 1: has Se; molecules of this model have"),
        ("C" * 30, "in.smi, line 1: has 30 atoms; molecules of this model have at most"),
        (" ", "in.smi has no molecules"),
    ):
        (tmp_path / "in.smi").write_text(text)
        assert said in refused(capsys, "sample", run, "--conformers", tmp_path / "in.smi")


def test_mirror_images_are_taken_where_they_have_the_stereochemistry(run):
    """Of a chiral molecule and its mirror image, both become the wanted one; a wrong double bond stays wrong."""
    codec = dc.load(run).model.codec
    reader = part_of(dc.load(run).model.modality, "reader", codec)
    for wanted, other, agrees in (("C[C@H](O)F", "C[C@@H](O)F", True), ("C/C=C/C", r"C/C=C\C", False)):
        found = embedded(other)
        encoded = reader._encoded(from_rdkit(found))
        state, agreed = with_stereo(codec, [Chem.MolFromSmiles(wanted)], encoded.state, encoded.mask, [0])
        assert agreed == [agrees]
        torch.testing.assert_close(state["positions"], (-1 if agrees else 1) * encoded.state["positions"])
        same, agreed = with_stereo(codec, [Chem.MolFromSmiles(other)], encoded.state, encoded.mask, [0])
        assert agreed == [True]
        assert torch.equal(same["positions"], encoded.state["positions"])


def embedded(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


def test_two_pieces_are_linked(run, part, tmp_path):
    mol = Chem.MolFromMolFile(str(part))
    AllChem.TransformMol(mol, numpy.array([[1.0, 0, 0, 5], [0, 1, 0, 1], [0, 0, 1, 2], [0, 0, 0, 1]]))
    (tmp_path / "two.sdf").write_text(f"{part.read_text()}$$$$\n{Chem.MolToMolBlock(mol)}$$$$\n")
    sample(run, "--n", 2, "--inpaint", tmp_path / "two.sdf", "--grow", 1, "--steps", 3, "--out", tmp_path / "one.sdf")
    first, second = (Chem.MolFromMolFile(str(part)).GetConformer().GetPositions(), mol.GetConformer().GetPositions())
    for numbers, _, positions in read_all(tmp_path / "one.sdf"):
        assert numbers[:8] == [8, 6, 6, 6] * 2
        assert len(numbers) == 9
        assert abs(positions[:8] - numpy.concatenate([first, second])).max() < 1e-4


def test_linked_samples_are_in_one_piece(run, part, tmp_path, capsys):
    """A file of one piece is refused, and of several, only samples in which they are joined are taken."""
    said = refused(capsys, "sample", run, "--link", part)
    assert "--link: " in said
    assert "part.mol is in one piece; give several pieces, or draw around it by --inpaint" in said
    assert "--inpaint and --link are two different tasks" in refused(
        capsys, "sample", run, "--link", part, "--inpaint", part
    )
    run = dc.load(run)
    constraint = inpainting_of(run.model, part, method="mmps", free="2", link=True)
    assert constraint.agreement == "linked"
    encoded = run.sample(2, steps=2, size=5, conditions={"logp": 1.0}, guides=[])
    joined, apart = (numpy.ones((5, 5)) - numpy.eye(5), numpy.zeros((5, 5)))
    molecules = [replace(encoded.decoded[0], bonds=bonds.astype(numpy.uint8)) for bonds in (joined, apart)]
    reader = part_of(run.model.modality, "reader", run.model.codec)
    both = [reader._encoded(molecule) for molecule in molecules]
    state, mask = concatenate([each.state for each in both]), torch.cat([each.mask for each in both])
    assert constraint.settled(state, mask, [0, 1])[1] == [True, False]


def test_variations_of_a_molecule_have_its_atoms_and_fields_can_be_kept(run, own, part, tmp_path):
    whole = write_sdf(tmp_path / "whole.sdf", ["CC(C)O"])
    sample(run, "--n", 2, "--from", whole, "--strength", 0, "--out", tmp_path / "same.smi")
    assert {line.split()[0] for line in (tmp_path / "same.smi").read_text().splitlines()} == {"CC(C)O"}
    flags = ["--strength", "positions=0.9", "--steps", 3, "--out", tmp_path / "moved.sdf"]
    sample(run, "--n", 2, "--from", whole, *flags)
    (original,) = Chem.SDMolSupplier(str(whole))
    for numbers, bonds, positions in read_all(tmp_path / "moved.sdf"):
        wanted, edges, places = from_rdkit_unchecked(original)
        assert (numbers, bonds) == (wanted, edges)
        assert abs(cdist(positions, positions) - cdist(places, places)).max() > 0.05


def test_what_cannot_be_grown_or_joined_is_refused(run, part, tmp_path, capsys):
    for flags, said in (
        (["--grow", "x"], "--grow x: write a number of elements, or a range such as 2..4"),
        (["--grow", "30"], "--size 34: the training examples have other sizes"),
        (["--grow", "2", "--size", "9"], "--grow and --size are two ways to say how many elements there are"),
        (["--free", "9"], "--free 9: the file has the elements 1 to 4"),
        (["--free", "1,2,3,4"], "--free has all elements of the file"),
        (["--free", "a"], "--free a: write the numbers of elements, from 1, such as 3,4,7"),
    ):
        assert said in refused(capsys, "sample", run, "--inpaint", part, *flags)
    assert "--grow belongs to --inpaint FILE" in refused(capsys, "sample", run, "--grow", 2)
    other = write_sdf(tmp_path / "other.sdf", ["CCO"])
    assert "has 4 atoms and" in refused(capsys, "sample", run, "--between", part, other)


def test_a_molecule_is_matched_in_its_order_and_orientation():
    mol = Chem.AddHs(Chem.MolFromSmiles("C[C@H](N)C(=O)O"))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    goal = from_rdkit(Chem.RemoveHs(mol))
    random = numpy.random.default_rng(0)
    order, turn = random.permutation(len(goal)), numpy.linalg.qr(random.normal(size=(3, 3)))[0]
    turn *= numpy.linalg.det(turn)
    moved = Molecule(
        goal.numbers[order], goal.charges[order], goal.bonds[order][:, order], goal.positions[order] @ turn + 3
    )
    found = matched(moved, goal)
    assert (found.numbers == goal.numbers).all()
    assert (found.bonds == goal.bonds).all()
    assert abs(found.positions - goal.positions).max() < 1e-4
    mirrored = matched(replace(moved, positions=-moved.positions), goal)
    assert abs(mirrored.positions - goal.positions).max() > 0.3
