"""Where does diffusion stand among its rivals: diffcore, a VAE, a GAN and a gated PixelCNN on the same digits?

Trains each family, conditioned on the class, on MNIST at 32x32, on one thread for the steps that take ten minutes of
two threads. All have 1 M parameters within 5 %, a moving average of their weights, as many trials of their options, and
the same judge. Prints a table of all seeds and draws a picture.

    python tests/benchmarks/families.py --root PATH --out FOLDER [--seeds 0 1 2] [--rows diffusion vae ...]
    python tests/benchmarks/families.py --root PATH --out FOLDER --time [--families diffusion vae ...]
    python tests/benchmarks/families.py --root PATH --out FOLDER --trials [--families diffusion vae ...]
    python tests/benchmarks/families.py --root PATH --out FOLDER --table [--picture FILE.png]

PATH holds MNIST/raw/*-ubyte. FOLDER keeps the checkpoint and the metrics of each training; what is there is not
computed again. --time measures the seconds of a step of all recipes, --trials tries them for a minute each, and --table
only shows what FOLDER has.
"""

import argparse
import importlib
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from families.judge import Judge
from families.model import Task
from families.recipes import BUDGET, RECIPES, ROWS, TIMED, TRIAL, Recipe
from PIL import Image, ImageDraw


def trained(family: str, recipe: Recipe, task: Task, steps: int, seed: int, folder: Path):
    """The model of a recipe, trained now unless its checkpoint is in the folder."""
    module = importlib.import_module(f"families.{family}")
    if not (folder / "seconds.json").exists():
        started = time.process_time()
        model = module.train(task, recipe.options, steps, seed, folder)
        (folder / "seconds.json").write_text(json.dumps(time.process_time() - started))
        return model
    return module.load(recipe.options, folder)


def measure_time(task: Task, families: list[str], rounds: int) -> dict[str, float]:
    """Seconds of a step: the median difference of two short trainings, divided by that of their steps."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for family in families:
            for recipe in RECIPES[family]:
                seconds = []
                for steps in (2, 2 + TIMED[family]):
                    with tempfile.TemporaryDirectory() as folder:
                        started = time.process_time()
                        trained(family, recipe, task, steps, 0, Path(folder))
                        seconds.append(time.process_time() - started)
                name = f"{family}: {recipe.name}"
                found.setdefault(name, []).append((seconds[1] - seconds[0]) / TIMED[family])
    return {name: statistics.median(values) for name, values in found.items()}


def run_trials(task: Task, judge: Judge, options: argparse.Namespace) -> None:
    """Train every recipe for a minute, and keep the Frechet distance of its samples."""
    for number in range(max(len(RECIPES[family]) for family in options.families)):
        for family in options.families:
            recipe = RECIPES[family][number]
            folder = options.out / "trials" / f"{family}-{number}"
            if (folder / "result.json").exists():
                continue
            steps = max(1, round(options.scale * recipe.steps(TRIAL)))
            folder.mkdir(parents=True, exist_ok=True)
            found = {"family": family, "recipe": recipe.name, "steps": steps}
            try:
                model = trained(family, recipe, task, steps, 0, folder)
                found |= {"frechet": judge.of_trial(model, options.trial_samples)}
                found |= {"seconds": json.loads((folder / "seconds.json").read_text())}
                found |= {"parameters": dict(model.parameters)}
            except FloatingPointError as error:
                found |= {"frechet": float("inf"), "failed": str(error)}
            (folder / "result.json").write_text(json.dumps(found))
            print(json.dumps(found), flush=True)


def run_seed(name: str, seed: int, task: Task, judge: Judge, options: argparse.Namespace) -> None:
    """Train and judge one row of the table with one seed, and keep the metrics; those that are there stay."""
    folder = options.out / f"{name}-{seed}"
    result, shown_in = folder / "result.json", folder / "shown.pt"
    folder.mkdir(parents=True, exist_ok=True)
    family, recipe = ROWS[name].family, ROWS[name].recipe
    steps = max(1, round(options.scale * recipe.steps(BUDGET)))
    model = trained(family, recipe, task, steps, seed, folder)
    found = {"samples": {}, "bits": {}} | (json.loads(result.read_text()) if result.exists() else {})
    shown = torch.load(shown_in, weights_only=True) if shown_in.exists() else {}
    for way in model.draws.keys() - found["samples"].keys():
        found["samples"][way], shown[way] = judge.of_samples(model.draws[way], options.samples)
    for kind in model.bits.keys() - found["bits"].keys():
        found["bits"][kind] = judge.of_likelihood(model.bits[kind], options.likelihoods)
    found["samples"] = {way: found["samples"][way] for way in model.draws}
    found["bits"] = {kind: found["bits"][kind] for kind in model.bits}
    found |= {"family": family, "seed": seed, "recipe": recipe.name, "steps": steps}
    found |= {"seconds": json.loads((folder / "seconds.json").read_text()), "parameters": dict(model.parameters)}
    torch.save({way: shown[way] for way in model.draws}, shown_in)
    result.write_text(json.dumps(found, indent=2))
    print(json.dumps(found), flush=True)


def spread(values: list[float], form: str) -> str:
    """The median, and the smallest and the largest value where there are several."""
    median = format(statistics.median(values), form)
    return median if len(values) == 1 else f"{median} ({min(values):{form}} to {max(values):{form}})"


def table(out: Path) -> str:
    """What the folder has, as Markdown."""
    real = json.loads((out / "real.json").read_text())
    lines = [
        "| | seeds | Frechet distance | class agreement | precision | recall | nearest training digit, ratio "
        "| bits per dimension | s for 1,000 samples |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        found = [json.loads(path.read_text()) for path in sorted(out.glob(f"{name}-[0-9]/result.json"))]
        if not found:
            continue
        for number, way in enumerate(found[0]["samples"]):
            each = [one["samples"][way] for one in found if way in one["samples"]]
            bits = [f"{spread([one['bits'][k][0] for one in found], '.3f')} ({k})" for k in found[0]["bits"]]
            cells = [
                row.title if way == "samples" else f"{row.title}, {way}", str(len(each)),
                spread([one["frechet"] for one in each], ".2f"),
                spread([100 * one["agreement"] for one in each], ".1f") + " %",
                spread([one["precision"] for one in each], ".3f"), spread([one["recall"] for one in each], ".3f"),
                spread([one["nearest"] / real["nearest"] for one in each], ".2f"),
                "" if number else ", ".join(bits) or "none", spread([one["seconds"] for one in each], ".2g"),
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    cells = [f"{real['frechet']:.2f}", f"{100 * real['agreement']:.1f} %", f"{real['precision']:.3f}"]
    cells += [f"{real['recall']:.3f}", "1 (held-out digits)", "", ""]
    return "\n".join([*lines, f"| real training digits | | {' | '.join(cells)} |"])


def picture(out: Path, judge: Judge, path: Path, columns: int = 20, rows: int = 2, scale: int = 2) -> None:
    """Samples of seed 0 of each row and held-out digits; all columns have one class in each band."""
    labels = judge.held_out["label"][:300]
    bands = {"real, held out": judge.held_out["pixels"][:300]}
    for name, row in ROWS.items():
        if (out / f"{name}-0" / "shown.pt").exists():
            shown = torch.load(out / f"{name}-0" / "shown.pt", weights_only=True)
            bands |= {row.title if way == "samples" else f"{row.title}, {way}": each for way, each in shown.items()}
    side, title = 32 * scale, 16
    image = Image.new("L", (columns * side, len(bands) * (rows * side + title)), 255)
    ink = ImageDraw.Draw(image)
    for band, (name, pixels) in enumerate(bands.items()):
        top = band * (rows * side + title)
        ink.text((4, top + 2), name, fill=0)
        chosen = [
            (labels == column % 10).nonzero()[row * (columns // 10) + column // 10].item()
            for row in range(rows) for column in range(columns)
        ]  # fmt: skip
        for place, number in enumerate(chosen):
            digit = Image.fromarray(pixels[number, 0].numpy()).resize((side, side), Image.Resampling.NEAREST)
            image.paste(digit, (place % columns * side, top + title + place // columns * side))
    image.save(path, optimize=True)


def main() -> None:
    """Do what the flags ask for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--out", required=True, type=Path, help="folder for checkpoints and metrics")
    parser.add_argument(
        "--families", nargs="+", default=list(RECIPES), choices=list(RECIPES), help="families of --time and --trials"
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="rows to train and judge")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--likelihoods", type=int, default=500, help="held-out digits whose likelihood is computed")
    parser.add_argument("--trial-samples", type=int, default=500)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all numbers of steps, to try the script")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of --time")
    parser.add_argument("--time", action="store_true", help="measure the seconds of a step of all recipes")
    parser.add_argument("--trials", action="store_true", help="try all recipes")
    parser.add_argument("--table", action="store_true", help="only show what is there")
    parser.add_argument("--picture", type=Path, help="draw samples of seed 0 into this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from diffcore_image.datasets import mnist
    from diffcore_image.options import MnistOptions

    data = mnist(MnistOptions(root=options.root))
    task = Task(data.examples["pixels"], data.examples["label"], options.root)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.time:
        print(json.dumps(measure_time(task, options.families, options.rounds), indent=2))
        return
    judge = Judge(data)
    if options.trials:
        run_trials(task, judge, options)
        return
    real = options.out / "real.json"
    if not real.exists():
        real.write_text(json.dumps(judge.of_real(options.samples)))
    for seed in () if options.table else options.seeds:
        for name in options.rows:
            run_seed(name, seed, task, judge, options)
    print(table(options.out))
    if options.picture:
        picture(options.out, judge, options.picture)


if __name__ == "__main__":
    main()
