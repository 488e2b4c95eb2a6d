"""What do some minutes of training on this machine give: diffcore, and what a user would take instead?

Trains each contestant on MNIST at 32x32 for the same minutes, one after the other, each in a process of its own,
and prints images a second in training, evaluations of the network a second in sampling, peak memory, and the
Frechet distance of samples to the test images in the features of one classifier. Real training images against the
same test images stand beside them.

    python tests/benchmarks/mnist_minutes.py --root PATH [--minutes 10] [--json FILE] [--install-peers]

PATH holds MNIST/raw/*-ubyte. The peers are `denoising-diffusion-pytorch` and `diffusers`; `--install-peers` installs
them with pip into this environment.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

PEERS = {"denoising-diffusion-pytorch": "denoising-diffusion-pytorch", "diffusers": "diffusers"}
BATCH = 64


def peak_memory_mib() -> float:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def load(root: str):
    """The data set and the evaluator that all contestants share."""
    from diffcore.system.cache import cache_folder
    from diffcore_image.codec import ImageCodec
    from diffcore_image.datasets import mnist
    from diffcore_image.evaluator import ImageEvaluator
    from diffcore_image.options import MnistOptions

    data = mnist(MnistOptions(root=root))
    return data, lambda: ImageEvaluator(ImageCodec(data.facts), data, cache_folder())


def train_peer(step: Callable[[torch.Tensor], torch.Tensor], network, pixels, minutes: float, rate: float):
    """The usual loop: Adam, an exponential moving average of 0.995, shuffled batches of 64. Returns images/s."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    average = [parameter.detach().clone() for parameter in network.parameters()]
    generator = torch.Generator().manual_seed(0)
    started, images = time.perf_counter(), 0
    while time.perf_counter() - started < 60 * minutes:
        chosen = torch.randint(len(pixels), (BATCH,), generator=generator)
        loss = step(pixels[chosen].float() / 255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        images += BATCH
        with torch.no_grad():
            torch._foreach_lerp_(average, list(network.parameters()), 0.005)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        torch._foreach_copy_(list(network.parameters()), average)
    return images / seconds


def lucidrains(pixels, minutes: float):
    """denoising-diffusion-pytorch: Unet(dim 32, 1-2-4) with GaussianDiffusion's defaults, DDIM sampling."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    network = Unet(dim=32, dim_mults=(1, 2, 4), channels=1, flash_attn=False)
    diffusion = GaussianDiffusion(network, image_size=32, timesteps=1000)
    rate = train_peer(diffusion, network, pixels, minutes, 5e-4)
    network.eval()

    @torch.no_grad()
    def draw(n: int, steps: int) -> torch.Tensor:
        diffusion.sampling_timesteps = steps
        return diffusion.ddim_sample((n, 1, 32, 32))

    return network, rate, draw


def diffusers(pixels, minutes: float):
    """Diffusers: UNet2DModel(32, 64, 128) as in its training tutorial, DDIM sampling."""
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

    network = UNet2DModel(
        sample_size=32, in_channels=1, out_channels=1, layers_per_block=2, block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), norm_num_groups=8,
    )  # fmt: skip
    schedule = DDPMScheduler(num_train_timesteps=1000)

    def loss(images: torch.Tensor) -> torch.Tensor:
        images = images * 2 - 1
        noise = torch.randn_like(images)
        t = torch.randint(0, 1000, (len(images),))
        return torch.nn.functional.mse_loss(network(schedule.add_noise(images, noise, t), t).sample, noise)

    rate = train_peer(loss, network, pixels, minutes, 5e-4)
    network.eval()
    sampler = DDIMScheduler(num_train_timesteps=1000)

    @torch.no_grad()
    def draw(n: int, steps: int) -> torch.Tensor:
        sampler.set_timesteps(steps)
        x = torch.randn(n, 1, 32, 32)
        for t in sampler.timesteps:
            x = sampler.step(network(x, t).sample, t, x).prev_sample
        return (x / 2 + 0.5).clamp(0, 1)

    return network, rate, draw


def measure_peer(name: str, options: argparse.Namespace) -> dict:
    """Train a peer and measure its samples."""
    torch.manual_seed(0)
    data, build_evaluator = load(options.root)
    build = {"denoising-diffusion-pytorch": lucidrains, "diffusers": diffusers}[name]
    network, rate, draw = build(data.examples["pixels"], options.peer_minutes)
    memory = peak_memory_mib()
    evaluator = build_evaluator()
    found = {"parameters": sum(p.numel() for p in network.parameters()), "images_per_second": rate}
    for steps in options.steps:
        started = time.perf_counter()
        parts = [draw(min(100, options.peer_samples - i), steps) for i in range(0, options.peer_samples, 100)]
        seconds = time.perf_counter() - started
        samples = (torch.cat(parts) * 255).round().to(torch.uint8)
        metrics = {metric.name: metric.value for metric in evaluator(samples, {"label": torch.zeros(len(samples))})}
        found[f"frechet_distance_{steps}"] = metrics["frechet_distance"]
        found["evaluations_per_second"] = len(samples) * steps / seconds
    return {**found, "peak_memory_mib": memory, "samples": options.peer_samples, "minutes": options.peer_minutes}


def measure_diffcore(options: argparse.Namespace) -> dict:
    """`diffcore train` and `diffcore evaluate` as a user would call them."""
    from safetensors import safe_open

    from diffcore.cli import main as diffcore

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        flags = ["--data", "mnist", "--data.root", options.root, "--out", str(run), "--seed", str(options.seed)]
        flags += ["--device", "cpu", "--train.minutes", str(options.minutes), "--train.evaluate", "0"]
        assert diffcore(["train", "--modality", "image", *flags]) == 0
        memory = peak_memory_mib()
        rows = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
        newest = max((run / "checkpoints").iterdir())
        with safe_open(newest / "model.safetensors", "pt") as weights:
            parameters = sum(weights.get_tensor(key).numel() for key in weights.keys())
        found = {"parameters": parameters, "images_per_second": rows[-1]["examples_per_second"]}
        for steps in options.steps:
            evaluated = ["evaluate", str(run), "--n", str(options.samples), "--steps", str(steps)]
            assert diffcore(evaluated) == 0
            metrics = {row["name"]: row["value"] for row in json.loads((run / "metrics.json").read_text())}
            found[f"frechet_distance_{steps}"] = metrics["frechet_distance"]
            found[f"class_agreement_{steps}"] = metrics["class_agreement"]
            found["evaluations_per_second"] = metrics["samples_per_second"] * steps
    return {**found, "peak_memory_mib": memory, "samples": options.samples, "minutes": options.minutes}


def measure_real(options: argparse.Namespace) -> dict:
    """Real training images against the test images: all of them, and as many as samples are drawn."""
    data, build_evaluator = load(options.root)
    evaluator = build_evaluator()
    pixels, found = data.examples["pixels"], {}
    for n in (len(pixels), options.samples, options.peer_samples):
        metrics = {metric.name: metric.value for metric in evaluator(pixels[:n], {"label": data.examples["label"][:n]})}
        found[f"frechet_distance_of_{n}"] = metrics["frechet_distance"]
    return found


def in_own_process(name: str, options: argparse.Namespace) -> dict:
    """Measure one contestant in a fresh process."""
    with tempfile.NamedTemporaryFile(suffix=".json") as answer:
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in vars(options).items() if key in PASSED_ON]
        flags += ["--steps", *map(str, options.steps)]
        subprocess.run([sys.executable, __file__, "--contestant", name, "--json", answer.name, *flags], check=True)
        return json.loads(Path(answer.name).read_text())


PASSED_ON = ("root", "minutes", "peer_minutes", "samples", "peer_samples", "seed")


def main() -> None:
    """Measure all contestants and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each")
    parser.add_argument("--peer-minutes", type=float, help="training time of each peer, where it is to be shorter")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 50], help="evaluations a sample")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--peer-samples", type=int, default=1000, help="fewer save time: peers draw slowly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="write the metrics there")
    parser.add_argument("--install-peers", action="store_true", help="pip install the peers first")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.peer_minutes = options.peer_minutes or options.minutes
    torch.set_num_threads(2)
    if options.contestant is not None:
        measure = {"diffcore": measure_diffcore, "real": measure_real}.get(options.contestant)
        found = measure(options) if measure else measure_peer(options.contestant, options)
        Path(options.json).write_text(json.dumps(found))
        return
    if options.install_peers:
        subprocess.run([sys.executable, "-m", "pip", "install", *PEERS.values()], check=True)
    results = {}
    for name in ("real", "diffcore", *PEERS):
        results[name] = in_own_process(name, options)
        print(name, json.dumps(results[name], indent=2), flush=True)
    best_peer = max(results[name]["images_per_second"] for name in PEERS)
    results["times_the_better_peer"] = results["diffcore"]["images_per_second"] / best_peer
    print(f"diffcore trains {results['times_the_better_peer']:.1f} times the images of the better peer")
    if options.json:
        Path(options.json).write_text(json.dumps({"options": vars(options), **results}, indent=2))


if __name__ == "__main__":
    main()
