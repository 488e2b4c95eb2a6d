"""Which regularisation of latents gives the best reconstructions, and which the best samples of a model in them?

Trains an autoencoder with each, then a U-Net in its latents, for the same steps and seed; and a U-Net on the pixels for
the same minutes as both together. Prints the PSNR of held-out reconstructions as samples are decoded, the error of the
standard deviation of latents, the Frechet distance of samples, and samples per second.

    python tests/benchmarks/latents.py --root PATH [--size 32] [--factor 4] [--json FILE]

PATH is a folder of pictures.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import diffcore as dc

REGULARISATIONS: dict[str, dict[str, Any]] = {
    "none": {"regularisation": "none"},
    "KL 1e-6": {"regularisation": "kl", "kl_weight": 1e-6},
    "noise": {"regularisation": "noise"},
    "noise, equivariant": {"regularisation": "noise", "equivariance": 0.5},
}


def metrics(run: dc.Run) -> dict[str, float]:
    """The metrics of a run that has just been trained."""
    return {row["name"]: row["value"] for row in json.loads((run.path / "metrics.json").read_text())}


def measure(task: dict[str, Any], options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Train an autoencoder and a model in its latents."""
    data = {"name": "folder", "root": options.root, "size": options.size}
    autoencoder = {"factor": options.factor, "latent": options.latent, "width": options.width, "patch": options.patch}
    train = {"steps": options.first_steps, "batch_size": 32, "evaluate": 500, "cuda_graphs": True}
    started = time.perf_counter()
    first = dc.train(
        "image", data=data, task={"name": "encode", **task}, autoencoder=autoencoder, train=train, out=folder / "first"
    )
    between = time.perf_counter()
    second = dc.train(
        "image",
        data=data,
        latent=first.path,
        denoiser={"name": "unet", "width": 64, "multipliers": (1, 2), "patch": 1},
        train={"steps": options.steps, "batch_size": 64, "evaluate": options.n, "weighting": "v", "cuda_graphs": True},
        sample={"steps": 20},
        out=folder / "second",
    )
    seconds = {"first_seconds": between - started, "second_seconds": time.perf_counter() - between}
    return {**seconds, **metrics(first), **metrics(second)}


def pixels(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Train a model of pixels with a U-Net that folds patches of the factor."""
    run = dc.train(
        "image",
        data={"name": "folder", "root": options.root, "size": options.size},
        denoiser={"name": "unet", "width": 64, "multipliers": (1, 2), "patch": options.factor},
        train={"minutes": options.minutes, "steps": None, "batch_size": 64, "evaluate": options.n, "weighting": "v"},
        sample={"steps": 20},
        out=folder / "pixels",
    )
    return metrics(run)


def main() -> None:
    """Measure all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--latent", type=int, default=4)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--first-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--minutes", type=float, help="of a model of pixels, which is trained too")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[*REGULARISATIONS])
    parser.add_argument("--json", help="write the metrics there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {}
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = found = measure(REGULARISATIONS[name], options, Path(folder))
        print(
            f"{name:20} PSNR {found['psnr']:6.2f} dB   |std - 1| {found['latent_std_error']:.3f}   "
            f"Frechet {found['frechet_distance']:8.3f}   {found['samples_per_second']:6.1f} samples/s   "
            f"{found['first_seconds']:.0f} + {found['second_seconds']:.0f} s",
            flush=True,
        )
    if options.minutes:
        with tempfile.TemporaryDirectory() as folder:
            results["pixels"] = found = pixels(options, Path(folder))
        print(
            f"{'pixels':20} Frechet {found['frechet_distance']:8.3f}   {found['samples_per_second']:6.1f} samples/s",
            flush=True,
        )
    if options.json:
        Path(options.json).write_text(json.dumps({"options": vars(options), **results}, indent=2))


if __name__ == "__main__":
    main()
