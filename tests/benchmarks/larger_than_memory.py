"""Training on pictures that take ten times the memory that is allowed, and the rates of reading and of training.

    python tests/benchmarks/larger_than_memory.py [--allowed 64] [--times 10] [--size 128] [--steps 100] [--batch 4]
        [--flat] [--cgroup] [--cold]

A child process imports everything, and then limits the memory that it may still take to `--allowed` MB (RLIMIT_DATA:
the private memory of the process, without mapped files). It makes a set of pictures whose pixels take `--times` as much
and trains on it with `--data.shards`. Before that it tries to hold the set in memory, which must fail. With `--cgroup`,
a control group of Linux (as root, version 1) limits what it takes more to the allowed memory, parts of files in memory
included. With `--cold`, the file cache is dropped before training (as root).
"""

import argparse
import gc
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

GROUP = Path("/sys/fs/cgroup/memory/diffcore-benchmark")


def write_pictures(folder: Path, count: int, size: int, flat: bool = False) -> None:
    """So many JPEG files in two classes; or PNG files of one colour, which are quick to write and to read."""
    for name in ("dark", "light"):
        (folder / name).mkdir(parents=True)
    random = numpy.random.default_rng(0)
    if flat:
        for name, colour in (("dark", (10, 20, 30)), ("light", (200, 210, 220))):
            content = io.BytesIO()
            Image.new("RGB", (size, size), colour).save(content, "PNG")
            for number in range(count // 2):
                (folder / name / f"{number:06d}.png").write_bytes(content.getvalue())
        return
    for number in range(count):
        light = number % 2
        pixels = random.integers(128 * light, 128 * light + 128, (8, 8, 3), dtype=numpy.uint8)
        large = Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST)
        large.save(folder / ("dark", "light")[light] / f"{number:06d}.jpg")


def memory_of_process(name: str) -> int:
    """A figure of /proc/self/status in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def limit(allowed: int) -> None:
    """Let this process take so many bytes more of private memory."""
    most = memory_of_process("VmData:") + allowed
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def settings_of(pictures: Path, options: argparse.Namespace, shards: Path | None) -> Any:
    """A run on the folder of pictures."""
    from diffcore.plugins.registry import installed
    from diffcore.runs.composing import compose

    data = {"name": "folder", "root": str(pictures), "size": options.size}
    file = {
        "device": "cpu",
        "data": data if shards is None else {**data, "shards": str(shards)},
        "denoiser": {"name": "unet", "width": 8, "multipliers": (1,), "patch": 16, "blocks": 1},
        "train": {"batch_size": options.batch},
    }
    return compose(installed(), "image", file=file)


def read(pictures: Path, options: argparse.Namespace, shards: Path | None) -> dict[str, Any]:
    """Read the folder of pictures."""
    from diffcore.plugins.registry import installed
    from diffcore.runs.model import build_data

    started = time.perf_counter()
    count = len(build_data(settings_of(pictures, options, shards), installed()).examples)
    took = time.perf_counter() - started
    return {"examples": count, "seconds": round(took, 2), "pictures/s": round(count / took)}


def train(pictures: Path, options: argparse.Namespace, shards: Path, steps: int) -> dict[str, Any]:
    """A few steps of training, with both rates."""
    from diffcore.plugins.registry import installed
    from diffcore.runs.model import build_data, build_model
    from diffcore.training.state import TrainState

    settings = settings_of(pictures, options, shards)
    data = build_data(settings, installed())
    state = TrainState(build_model(settings, data.facts, installed()), settings, data)
    started = time.perf_counter()
    losses = [state.advance(step, 1e-3).item() for step in range(steps)]
    took, ahead = time.perf_counter() - started, state._data.ahead
    state.end_reading(steps, took)
    return {
        "examples": len(data.examples),
        "first and last loss": (losses[0], losses[-1]),
        "steps/s": round(steps / took, 2),
        "batches/s alone": round(ahead.batches / ahead.seconds),
        "share of the time waited": round(ahead.waited / took, 4),
    }


def child(options: argparse.Namespace, place: Path) -> None:
    """What the limited process does."""
    import torch

    import diffcore

    torch.set_num_threads(1)
    write_pictures(place / "few", 8, options.size)
    train(place / "few", options, place / "few-shards", 1)  # imports what is imported late
    count = options.allowed * options.times * 10**6 // (3 * options.size**2)
    write_pictures(place / "pictures", count, options.size, options.flat)
    if options.cgroup:
        (GROUP / "cgroup.procs").write_text(str(os.getpid()))
        (GROUP / "memory.limit_in_bytes").write_text(str(options.allowed * 10**6))  # what it had is not counted
    limit(round(options.slack * options.allowed * 10**6))
    found: dict[str, Any] = {"pictures": count, "MB allowed": options.allowed}
    try:
        read(place / "pictures", options, None)
    except (MemoryError, RuntimeError, diffcore.UserError) as error:
        found["in memory"] = str(error).splitlines()[0][:120]
    gc.collect()
    before = memory_of_process("RssAnon:")
    shards = place / "shards"
    found["encoding"] = read(place / "pictures", options, shards)
    gc.collect()
    if options.cold:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1")
    found["training"] = train(place / "pictures", options, shards, options.steps)
    found["MB mapped"] = round(sum(path.stat().st_size for path in shards.glob("*/rows.bin")) / 1e6)
    found["private memory grew by MB"] = round((memory_of_process("RssAnon:") - before) / 1e6)
    if options.cgroup:
        peak = int((GROUP / "memory.max_usage_in_bytes").read_text())
        found["MB of the control group, at most"] = round(peak / 1e6)
    print(json.dumps(found, indent=1), flush=True)


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The options, from the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--allowed", type=int, default=64, help="MB that the process may take more")
    parser.add_argument("--slack", type=float, default=1, help="factor of the limit, for what is reserved and not used")
    parser.add_argument("--times", type=int, default=10, help="how many times as large the set is")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--flat", action="store_true", help="pictures of one colour")
    parser.add_argument("--cgroup", action="store_true")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--child", default="")
    return parser.parse_args(words)


def main() -> None:
    chosen = options()
    if chosen.child:
        child(chosen, Path(chosen.child))
        return
    with tempfile.TemporaryDirectory() as place:
        if chosen.cgroup:
            GROUP.mkdir(exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        words = [sys.executable, __file__, *sys.argv[1:], "--child", place]
        status = subprocess.run(words, env=environment, check=False).returncode
        if chosen.cgroup:
            GROUP.rmdir()
    sys.exit(status)


if __name__ == "__main__":
    main()
