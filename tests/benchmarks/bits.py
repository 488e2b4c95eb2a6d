"""What makes likelihoods of images good? Bits per dimension and samples of short trainings on MNIST.

Trains the U-Net of the preset `mnist` with Muon and a cool-down, on one thread, with several schedules and weightings,
and with Fourier features of the state or without. Prints the variational bound of held-out digits, in bits for each of
the 1,024 bytes; which part of it lies at log-SNRs above 4; and the Frechet distance of samples to training digits.

    python tests/benchmarks/bits.py --root PATH --out FOLDER [--steps 600] [--only NAME ...]

PATH holds MNIST/raw/*-ubyte. FOLDER keeps the runs; those that are there are not trained again.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from families.diffusion import SCHEDULE, model_of
from families.judge import Judge
from families.recipes import UNIFORM

import diffcore as dc
from diffcore.likelihood.bound import variational_bound
from diffcore.sampling.loop import levels_of
from diffcore.sampling.timesteps import uniform_in_log_snr
from diffcore_image.datasets import mnist
from diffcore_image.options import MnistOptions

LAPLACE = {"name": "laplace", "mu": -1.0, "b": 4.0, "log_snr_max": 12.0}
VARIANTS: dict[str, tuple[dict[str, Any], str, int]] = {
    "cosine, x0": (SCHEDULE, "x0", 0),
    "cosine, v": (SCHEDULE, "v", 0),
    "cosine, v, waves": (SCHEDULE, "v", 9),
    "laplace, v, waves": (LAPLACE, "v", 9),
    "uniform, v, waves": (UNIFORM, "v", 9),
    "uniform, eps": (UNIFORM, "eps", 0),
    "uniform, eps, waves": (UNIFORM, "eps", 9),
}
"""The schedule, the weighting and the octaves of Fourier features, by name; the preset has "cosine, x0"."""

LEVELS, CLEAN = 201, 4.0


def main() -> None:
    """Train and measure the variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--out", required=True, type=Path, help="folder for the runs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--digits", type=int, default=100, help="held-out digits whose bits are computed")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = mnist(MnistOptions(root=options.root))
    judge = Judge(data)
    rows = ["| schedule, weighting | bits | of these above log-SNR 4 | Frechet distance |", "|---|---|---|---|"]
    for name in options.only:
        schedule, weighting, octaves = VARIANTS[name]
        folder = options.out / name.replace(", ", "-")
        if folder.exists():
            run = dc.load(folder, device="cpu")
        else:
            train = {"steps": options.steps, "evaluate": 0, "optimizer": "muon", "learning_rate": 0.01, "cooldown": 0.4}
            run = dc.train(
                "image", preset="mnist", out=folder, data={"root": options.root}, schedule=schedule, device="cpu",
                denoiser={"octaves": octaves}, train={**train, "weighting": weighting}, seed=0,
            )  # fmt: skip
        model = run.model
        encoded = model.codec.encode(data.held_out[: options.digits])
        levels = levels_of(model.schedule, uniform_in_log_snr(model.schedule, LEVELS))
        bound = variational_bound(
            model.denoiser,
            encoded.state,
            model.codec.space,
            levels,
            conditions=encoded.conditions,
            bins=model.codec.bins,
        )
        bits = bound.terms.mean(1) / encoded.state[0].numel() / torch.tensor(2.0).log()
        above = sum(bit.item() for bit, level in zip(bits[1:], levels, strict=False) if level.log_snr >= CLEAN)
        distance = judge.of_trial(model_of(run), options.samples)
        rows.append(f"| {name} | {bits.sum().item():.2f} | {above:.2f} | {distance:.1f} |")
        print(rows[-1], flush=True)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
