"""How well does a model enlarge pictures, and do two models in stages draw better ones than a single model?

Held-out pictures are made smaller and enlarged again: by nearest and bicubic interpolation, by a run that was trained
to enlarge, and by posterior sampling (`--upscale`) with a run that was not. Then pictures are drawn in two stages and
in one. Prints for each the PSNR, the root mean square error of the means of blocks, Frechet distances to the training
pictures, operations of the networks and seconds.

    python tests/benchmarks/stages.py --root PATH [--size 64] [--factor 4] [--small RUN] [--enlarge RUN] [--whole RUN]

PATH is a folder of pictures. Runs that are not given are trained with the settings below, in `--out` if that is given:
the single model for so many steps that their operations are those of the other two together. Operations are counted by
`torch.utils.flop_counter`, so they do not depend on the machine; those of training are three times those forwards.

Both distances see all pixels: `frechet` is that of the first 64 principal components of pictures and of the distance
from these, `patches` that of patches of 8 x 8 pixels, which shows how sharp pictures are.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import diffcore as dc
from diffcore.denoising.conditions import Conditions, nulls
from diffcore.denoising.conditions.coarse_condition import enlarging_condition
from diffcore.evaluation.judge import judge_of
from diffcore.evaluation.metrics import evenly, frechet_distance
from diffcore.evaluation.samples import asked_conditions
from diffcore.runs.folder import RunFolder, read_log
from diffcore.states.level import Level

KINDS = {
    "small": "draws small pictures",
    "enlarge": "enlarges them (data.upscale)",
    "whole": "draws whole pictures",
}
MEAN_OF = 8
"""The mean of so many enlargements is compared too: it is nearer to the original, and less sharp, than each of them."""

Row = dict[str, float]


def settings_of(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """How a run of that kind is trained here."""
    small, enlarges = kind == "small", kind == "enlarge"
    data = {"name": "folder", "root": options.root, "size": options.size // options.factor if small else options.size}
    network = {"name": "unet", "width": options.width, "multipliers": (1, 2), "attention": not enlarges}
    return {
        "data": data | ({"upscale": options.factor, "upscale_noise": options.noise} if enlarges else {}),
        "denoiser": network | {"patch": max(1, options.patch // options.factor) if small else options.patch},
        "schedule": {"name": "cosine", "shift": -1.0},
        "train": {"batch_size": 64, "learning_rate": 3e-3, "weighting": "x0", "evaluate": 0, "cuda_graphs": True},
        "device": options.device,
    }


def runs_of(options: argparse.Namespace, folder: Path) -> dict[str, dc.Run]:
    """A run of each kind: those that are given, and the others, which are trained."""
    runs: dict[str, dc.Run] = {}
    for kind in KINDS:
        if given := getattr(options, kind):
            runs[kind] = dc.load(given, device=options.device, data={"root": options.root})
            continue
        if (steps := getattr(options, f"{kind}_steps")) is None:
            one = operations_of_training(trained(kind, 1, options, folder / "one-step"))
            steps = round(sum(map(operations_of_training, runs.values())) / one)
        runs[kind] = trained(kind, steps, options, folder / kind)
    return runs


def trained(kind: str, steps: int, options: argparse.Namespace, out: Path) -> dc.Run:
    """A new run of that kind."""
    settings = settings_of(kind, options)
    return dc.train("image", **{**settings, "train": {**settings["train"], "steps": steps}}, out=out)


@torch.no_grad()
def operations(run: dc.Run) -> int:
    """The floating-point operations of one evaluation of the network for one picture."""
    model = run.model
    x, values = model.codec.space.empty(1).zero_(), nulls(model.codec.conditions, 1)
    with FlopCounterMode(display=False) as counted:
        model.denoiser(
            x.to(model.device), Level(0.7, 0.7), {name: value.to(model.device) for name, value in values.items()}
        )
    return int(counted.get_total_flops())


def operations_of_training(run: dc.Run) -> int:
    """The floating-point operations of all steps of training, forwards and backwards."""
    return 3 * operations(run) * run.settings.train.batch_size * int(log_of(run)["step"])


def log_of(run: dc.Run) -> dict[str, float]:
    """The last line of the log of training."""
    return read_log(RunFolder(run.path))[-1]


class Measures:
    """Measures of pictures, uint8 `[n, C, H, W]`: their distances to `real` ones, and how well they meet originals."""

    def __init__(self, real: Tensor, factor: int, run: dc.Run) -> None:
        labels = torch.zeros(len(real), dtype=torch.int64)
        judge = judge_of(torch.nn.Identity, 1, (real, labels), (real, labels), 0, Path(), "", "pixels", flat=_vectors)
        self._features: dict[str, Callable[[Tensor], Tensor]] = {
            "frechet": lambda pictures: judge.features_and_logits(pictures)[0],
            "patches": _patches,
        }
        self._real = {name: features(real) for name, features in self._features.items()}
        self._factor, self._fidelity = factor, run.model.modality.fidelity(run.model.codec)  # type: ignore[misc]

    def __call__(self, pictures: Tensor, originals: Tensor | None = None) -> Row:
        row = {name: frechet_distance(of(pictures), self._real[name]) for name, of in self._features.items()}
        if originals is not None:
            found, wanted = (functional.avg_pool2d(each.float(), self._factor) for each in (pictures, originals))
            row["psnr"] = self._fidelity(originals, pictures)[0].value
            row["error_of_means"] = (found - wanted).square().mean().sqrt().item()
        return row


def _vectors(pictures: Tensor) -> Tensor:
    return pictures.flatten(1).float() / 255


def _patches(pictures: Tensor) -> Tensor:
    """The patches of 8 x 8 pixels that lie side by side, `[m, 64 C]`."""
    return functional.unfold(pictures.float() / 255, 8, stride=8).transpose(1, 2).flatten(0, 1)


class Table:
    """Prints a line for each way to make pictures, and keeps the numbers and the pictures."""

    def __init__(self, measures: Measures) -> None:
        self.rows: dict[str, Row] = {}
        self.pictures: dict[str, Tensor] = {}
        self._measures = measures

    def add(
        self, name: str, draw: Callable[[], Tensor], originals: Tensor | None = None, operations: float = 0.0
    ) -> Tensor:
        """Measure the pictures that `draw` returns, for whose each the networks need so many `operations`."""
        started = time.perf_counter()
        drawn = draw()
        seconds = time.perf_counter() - started
        pictures = drawn.float().round().clamp(0, 255).to(torch.uint8)
        self.pictures[name] = pictures
        self.rows[name] = row = self._measures(pictures, originals)
        if operations:
            row |= {"gflop": operations / 1e9, "samples_per_second": len(pictures) / seconds}
        found = [f"{label} {row[key]:8.3f}{unit}" if key in row else "" for key, label, unit in COLUMNS]
        print(f"{name:36}", *(f"{text:22}" for text in found), flush=True)
        return drawn


COLUMNS = (
    ("psnr", "PSNR", " dB"),
    ("error_of_means", "means off", ""),
    ("frechet", "frechet", ""),
    ("patches", "patches", ""),
    ("gflop", "GFLOP", ""),
    ("samples_per_second", "a second", ""),
)


def enlargements(runs: dict[str, dc.Run], table: Table, options: argparse.Namespace) -> None:
    """Make held-out pictures smaller and enlarge them again in each way."""
    enlarge, whole = runs["enlarge"], runs["whole"]
    real = evenly(_held_out(enlarge)["pixels"], min(options.n, len(_held_out(enlarge))))
    n, size = len(real), real.shape[2]
    small = functional.avg_pool2d(real.float(), options.factor).round().to(torch.uint8)
    condition: Any = enlarging_condition(enlarge.model.codec.conditions)
    values = {condition.name: condition.values(condition.of_pixels(small))}
    examples = TensorDict({"pixels": small, "label": torch.zeros(n, dtype=torch.int64)}, batch_size=[n])
    state = whole.model.codec.encode(examples).state
    one, steps = operations(enlarge), options.posterior_steps

    def drawn(seed: int) -> Tensor:
        return enlarge.sample(n, conditions=values, seed=seed, steps=options.steps).decoded

    table.add("held-out pictures", lambda: real)
    for mode in ("nearest", "bicubic"):
        table.add(mode, lambda mode=mode: functional.interpolate(small.float(), size, mode=mode), real)  # type: ignore[misc]
    first = table.add("model that enlarges", lambda: drawn(0), real, options.steps * one)
    table.add(
        f"model that enlarges, mean of {MEAN_OF}",
        lambda: torch.stack([first.float(), *(drawn(seed).float() for seed in range(1, MEAN_OF))]).mean(0),
        real,
        MEAN_OF * options.steps * one,
    )
    table.add(
        f"posterior sampling, {steps} steps",
        lambda: whole.upscale(state, n, factor=options.factor, steps=steps).decoded,
        real,
        3 * steps * operations(whole),  # forwards and backwards
    )


def generations(runs: dict[str, dc.Run], table: Table, options: argparse.Namespace) -> None:
    """Draw pictures in two stages and in one, with the texts and classes of held-out and other pictures, if any."""
    small, enlarge, whole = (runs[kind] for kind in KINDS)
    n, steps = options.n, options.steps

    def staged() -> Tensor:
        first = small.sample(n, conditions=_of_pictures(small, n), steps=steps)
        return enlarge.sample(n, conditions=enlarge.conditions_of(first), steps=steps).decoded

    table.add("two stages", staged, operations=steps * (operations(small) + operations(enlarge)))
    table.add(
        "one stage",
        lambda: whole.sample(n, conditions=_of_pictures(whole, n), steps=steps).decoded,
        operations=steps * operations(whole),
    )


def _held_out(run: dc.Run) -> TensorDict:
    held_out = run.data.held_out
    assert held_out is not None
    return held_out


def _of_pictures(run: dc.Run, n: int) -> Conditions:
    return asked_conditions(run.model, _held_out(run), run.data.examples, n)


def main() -> None:
    """Measure all, print tables and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--noise", type=float, default=0.3, help="on small pictures in training (data.upscale_noise)")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--patch", type=int, default=4, help="of whole pictures; of small ones, divided by the factor")
    for kind, what in KINDS.items():
        parser.add_argument(f"--{kind}", help=f"a run that {what}")
    parser.add_argument("--small-steps", type=int, default=1500)
    parser.add_argument("--enlarge-steps", type=int, default=1500)
    parser.add_argument("--whole-steps", type=int, help="as many operations as of the others by default")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20, help="of sampling")
    parser.add_argument("--posterior-steps", type=int, default=50)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for the runs that are trained")
    parser.add_argument("--picture", type=Path, help="a file for the first ten pictures of each way, a way in each row")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        runs = runs_of(options, options.out or Path(folder))
        training = {}
        for kind, run in runs.items():
            last = log_of(run)
            training[kind] = {
                "steps": last["step"],
                "pflop": operations_of_training(run) / 1e15,
                "minutes": last.get("seconds", 0) / 60,
            }
            print(f"{kind:36}", *(f"{name} {value:<10.4g}" for name, value in training[kind].items()), flush=True)
        table = Table(Measures(runs["enlarge"].data.examples["pixels"], options.factor, runs["enlarge"]))
        enlargements(runs, table, options)
        generations(runs, table, options)
        if options.picture:
            shown = torch.cat([pictures[:10] for pictures in table.pictures.values()])
            model = runs["enlarge"].model
            model.modality.writer(model.codec).together(shown, options.picture, columns=10)  # type: ignore[misc]
    if options.json:
        told = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        options.json.write_text(json.dumps({"options": told, "training": training, **table.rows}, indent=2))


if __name__ == "__main__":
    main()
