"""Training on pictures that take ten times the memory that is allowed, and the rates of reading and of training.

    python tests/benchmarks/larger_than_memory.py [--allowed 64] [--times 10] [--size 128] [--steps 100] [--batch 4]
        [--cgroup] [--cold]

A child process imports everything, and then limits the memory that it may still take to `--allowed` MB (RLIMIT_DATA:
the private memory of the process, without mapped files). It makes a set of pictures whose pixels take `--times` as much
and trains on it with `--data.shards`. Before that it tries to hold the set in memory, which must fail. With `--cgroup`,
a control group of Linux limits the process with its share of the file cache too (as root, version 1), to what it has
plus the allowed memory. With `--cold`, the file cache is dropped before training (as root).
"""

import argparse
import gc
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


def write_pictures(folder: Path, count: int, size: int) -> None:
    """So many JPEG files in two classes."""
    for name in ("dark", "light"):
        (folder / name).mkdir(parents=True)
    random = numpy.random.default_rng(0)
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


def train(pictures: Path, size: int, steps: int, batch: int, shards: Path | None) -> dict[str, Any]:
    """Read the folder of pictures and do a few steps of training, with both rates."""
    from diffcore.plugins.registry import installed
    from diffcore.runs.composing import compose
    from diffcore.runs.model import build_data, build_model
    from diffcore.training.state import TrainState

    data = {"name": "folder", "root": str(pictures), "size": size}
    settings = compose(
        installed(),
        "image",
        file={
            "device": "cpu",
            "data": data if shards is None else {**data, "shards": str(shards)},
            "denoiser": {"name": "unet", "width": 8, "multipliers": (1,), "patch": 16, "blocks": 1},
            "train": {"batch_size": batch},
        },
    )
    started = time.perf_counter()
    found = build_data(settings, installed())
    read = time.perf_counter() - started
    state = TrainState(build_model(settings, found.facts, installed()), settings, found)
    started = time.perf_counter()
    losses = [state.advance(step, 1e-3).item() for step in range(steps)]
    took, ahead = time.perf_counter() - started, state._data.ahead
    state.end_reading(steps, took)
    return {
        "examples": len(found.examples),
        "read in seconds": round(read, 2),
        "first and last loss": (losses[0], losses[-1]),
        "steps/s": round(steps / took, 2),
        **({} if ahead is None else {"batches/s alone": round(ahead.batches / ahead.seconds)}),
        **({} if ahead is None else {"waited, share": round(ahead.waited / took, 4)}),
    }


def child(options: argparse.Namespace, place: Path) -> None:
    """What the limited process does."""
    import torch

    import diffcore

    torch.set_num_threads(1)
    write_pictures(place / "few", 8, options.size)
    train(place / "few", options.size, 1, options.batch, place / "few-shards")  # imports what is imported late
    count = options.allowed * options.times * 10**6 // (3 * options.size**2)
    write_pictures(place / "pictures", count, options.size)
    if options.cgroup:
        (GROUP / "cgroup.procs").write_text(str(os.getpid()))
        used = memory_of_process("VmRSS:")
        (GROUP / "memory.limit_in_bytes").write_text(str(used + options.allowed * 10**6))
    limit(options.allowed * 10**6)
    found: dict[str, Any] = {"pictures": count, "MB allowed": options.allowed}
    try:
        train(place / "pictures", options.size, 1, options.batch, None)
    except (MemoryError, RuntimeError, diffcore.UserError) as error:
        found["in memory"] = str(error).splitlines()[0][:120]
    gc.collect()
    before = memory_of_process("RssAnon:")
    shards = place / "shards"
    found["encoding"] = train(place / "pictures", options.size, 1, options.batch, shards)
    if options.cold:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1")
    found["training"] = train(place / "pictures", options.size, options.steps, options.batch, shards)
    found["MB mapped"] = round(sum(path.stat().st_size for path in shards.glob("*/rows.bin")) / 1e6)
    found["private memory grew by MB"] = round((memory_of_process("RssAnon:") - before) / 1e6)
    if options.cgroup:
        peak = int((GROUP / "memory.max_usage_in_bytes").read_text())
        found["control group, MB before and at most"] = (round(used / 1e6), round(peak / 1e6))
    print(json.dumps(found, indent=1), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--allowed", type=int, default=64, help="MB that the process may take more")
    parser.add_argument("--times", type=int, default=10, help="how many times as large the set is")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--cgroup", action="store_true")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--child", default="")
    options = parser.parse_args()
    if options.child:
        child(options, Path(options.child))
        return
    with tempfile.TemporaryDirectory() as place:
        if options.cgroup:
            GROUP.mkdir(exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        words = [sys.executable, __file__, *sys.argv[1:], "--child", place]
        status = subprocess.run(words, env=environment, check=False).returncode
        if options.cgroup:
            GROUP.rmdir()
    sys.exit(status)


if __name__ == "__main__":
    main()
