"""What diffcore does on a GPU: is it right, how fast is it, where does the time go, and what do short trainings give.

    python tests/benchmarks/gpu.py --minutes 14 --out gpu-results [--only machine throughput ...] [--data FOLDER]

Each part runs in a process of its own with a time limit and writes NAME.json after every measurement, so an interrupted
run loses nothing. `report.md` in the output folder is rewritten after each part. Parts that measure times run alone;
the others run side by side. `--data` is a folder with QM9 (`qm9/`) and pictures (`emoji/`); parts that
need them are skipped without it. `--device cpu` tries the script itself where there is no GPU.

A machine that has PyTorch and the usual packages of science may still lack these, whose wheels can be carried to it:
filelock, pluggy, pydantic, pydantic-core, typing-inspection, annotated-types, typing-extensions, rich, tyro,
docstring-parser, typeguard, tomli-w, safetensors, tensordict, pyvers, rdkit, soundfile, cffi, pycparser, trimesh,
mapbox-earcut, meshio.
"""

import argparse
import importlib.metadata
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "torch",
    "torchaudio",
    "torchvision",
    "triton",
    "tensordict",
    "rdkit",
    "e3nn",
    "trimesh",
    "soundfile",
    "cffi",
)


@dataclass(frozen=True)
class Part:
    """A part of the benchmark: `work(job)` in a process of its own, for at most `seconds`.

    Parts that follow each other and have the same `group` run side by side; a part without a group runs alone.
    """

    name: str
    seconds: float
    work: Callable[["Job"], None]
    group: str = ""


class Job:
    """The part that this process works on; `add` writes a result at once."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options, self.rows = name, options, []
        self.out = Path(options.out)
        self.device = options.device
        self.data = None if options.data is None else Path(options.data)

    def add(self, **row: Any) -> None:
        """Append a row to NAME.json and print it."""
        self.rows.append(row)
        place = self.out / f"{self.name}.json"
        place.with_suffix(".part").write_text(json.dumps(self.rows, indent=1))
        place.with_suffix(".part").replace(place)
        print(json.dumps(row), flush=True)

    def attempt(self, work: Callable[[], dict[str, Any]], **row: Any) -> None:
        """Add what `work` returns; an exception becomes a row too."""
        started = time.perf_counter()
        try:
            row |= work()
        except Exception as error:  # one measurement that fails must not end the others
            traceback.print_exc()
            row["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:400]
        self.add(**row, seconds=round(time.perf_counter() - started, 2))


# Machine: the two ceilings, of arithmetic and of memory.


def machine(job: Job) -> None:
    """Versions, the rate of matrix products in each precision, and the bandwidth of memory."""
    import torch

    gpu = job.device == "cuda"
    job.add(
        device=torch.cuda.get_device_name() if gpu else "cpu",
        memory_gb=round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if gpu else None,
        cores=os.cpu_count(),
        python=sys.version.split()[0],
        packages={name: _version(name) for name in PACKAGES},
    )
    for name, dtype, precision in PEAKS:
        job.attempt(lambda d=dtype, p=precision: {"tflops": _peak(job.device, d, p)}, matmul=name)
    job.attempt(lambda: {"gb_per_second": _bandwidth(job.device)}, copy="device to device, bytes read and written")


PEAKS = (("float32", "float32", "highest"), ("tf32", "float32", "high"), ("bfloat16", "bfloat16", "highest"))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _peak(device: str, dtype: str, precision: str) -> float:
    import torch

    torch.set_float32_matmul_precision(precision)
    n = 8192 if device == "cuda" else 512
    a = torch.randn(n, n, device=device, dtype=getattr(torch, dtype))
    seconds = _timed(lambda: a @ a, device, 10)
    return round(2 * n**3 / seconds / 1e12, 1)


def _bandwidth(device: str) -> float:
    import torch

    source = torch.empty(2**30 if device == "cuda" else 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return round(2 * source.numel() / _timed(lambda: target.copy_(source), device, 10) / 1e9)


def _timed(work: Callable[[], Any], device: str, count: int, rounds: int = 3) -> float:
    """Seconds of one call: the median over rounds of the mean of `count` calls, after one that is not counted."""
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    work()
    each = []
    for _ in range(rounds):
        wait()
        started = time.perf_counter()
        for _ in range(count):
            work()
        wait()
        each.append((time.perf_counter() - started) / count)
    return statistics.median(each)


# Throughput: steps and samples per second of presets, in several ways of computing.

WAYS = {
    "float32": ("float32", "highest", None, False),
    "tf32": ("float32", "high", None, False),
    "bfloat16": ("bfloat16", "high", None, False),
    "tf32, CUDA graph": ("float32", "high", None, True),
    "bfloat16, CUDA graph": ("bfloat16", "high", None, True),
    "tf32, compiled": ("float32", "high", "default", False),
    "bfloat16, compiled": ("bfloat16", "high", "default", False),
    "bfloat16, compiled, CUDA graph": ("bfloat16", "high", "default", True),
}
"""The precision of the network, that of matrix products in float32, how it is compiled, and whether a step is recorded
as a CUDA graph."""

SMALL = {
    "image": ("default", {}),
    "audio": ("default", {}),
    "pointcloud": ("default", {}),
    "molecule": ("default", {}),
}
LARGE = {
    "image": ("folder-gpu", {"data": {"size": 64}}),
    "audio": ("drums-gpu", {"data": {"sounds": 300}}),
    "pointcloud": ("shapes-gpu", {"data": {"shapes": 512, "held_out": 32}}),
    "molecule": ("qm9-gpu", {"data": {"name": "embedded", "hydrogens": True}}),
}


def _settings(job: Job, modality: str, large: bool, **train: Any) -> tuple[Any, Any]:
    """The registry, and the settings of the small or the large preset of a modality."""
    from diffcore.plugins.registry import installed
    from diffcore.runs.composing import compose

    preset, file = (LARGE if large else SMALL)[modality]
    file = {**file, "device": job.device, "train": train}
    if large and modality == "image":
        file["data"] = {**file["data"], "root": str(_pictures(job.out / "pictures"))}
    if large and modality == "molecule":
        preset, file = _large_on_embedded(file)
    registry = installed()
    return registry, compose(registry, modality, preset, file=file)


def _large_on_embedded(file: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The network and the batches of the preset `qm9-gpu` for the molecules that come with the plugin."""
    from diffcore_molecule.presets import PRESETS

    values = PRESETS["qm9-gpu"].values
    kept = {key: values[key] for key in ("denoiser", "schedule", "sample")}
    return "default", {**kept, **file, "train": {**values["train"], **file["train"]}}


def _pictures(folder: Path, count: int = 512) -> Path:
    """A folder of smooth random pictures of 64x64 pixels."""
    import numpy
    from PIL import Image

    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        partial.mkdir(parents=True)
        generator = numpy.random.default_rng(0)
        for number in range(count):
            small = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=numpy.uint8))
            small.resize((64, 64), Image.Resampling.BICUBIC).save(partial / f"{number}.png")
        with suppress(OSError):  # another process was faster
            partial.rename(folder)
    return folder


def _stepper(job: Job, registry: Any, settings: Any, data: Any, way: str) -> tuple[Any, Callable[[], None]]:
    """A fresh state of training that computes in a `way`, and a function that does its next step."""
    import torch

    from diffcore.runs.model import build_model
    from diffcore.training.state import TrainState

    precision, matmul, mode, graph = WAYS[way]
    torch.set_float32_matmul_precision(matmul)
    torch.compiler.reset()
    model = build_model(settings, data.facts, registry)
    train = settings.train.model_copy(update={"precision": precision, "cuda_graphs": graph})
    settings = settings.model_copy(update={"train": train})
    state = TrainState(model, settings, data)
    if mode is not None:
        model.network.backbone.compile(mode=mode)
    count = iter(range(10**9))

    def step() -> None:
        state.advance(next(count), 1e-5)

    return state, step


def compiled(job: Job) -> None:
    """Compile all networks, each in a process of its own, so that the measurements find them in the cache."""
    names = [f"{modality}:{large:d}" for large in (False, True) for modality in SMALL]
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--part", "compile-one", "--which", name, *_shared(job.options)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name in names
    }  # fmt: skip
    for name, process in processes.items():
        output = process.communicate()[0].splitlines()
        job.add(which=name, rc=process.returncode, last=output[-4:])


def compile_one(job: Job) -> None:
    """Compile the network of one preset in the compiled ways."""
    from diffcore.runs.model import build_data

    modality, large = job.options.which.split(":")
    registry, settings = _settings(job, modality, large == "1")
    data = build_data(settings, registry)
    for way in _ways(job):
        if WAYS[way][2] is not None:
            _, step = _stepper(job, registry, settings, data, way)
            started = time.perf_counter()
            step()
            step()
            print(f"{job.options.which} {way}: {time.perf_counter() - started:.1f} s", flush=True)


def _ways(job: Job) -> list[str]:
    return [way for way in WAYS if not job.options.ways or way in job.options.ways]


def throughput(job: Job) -> None:
    """Steps and samples per second, memory, share of the peak, synchronisations, and the rate of the input alone."""
    from diffcore.runs.model import build_data
    from diffcore.tasks.batch import draw_batch

    for large in (False, True):
        for modality in SMALL:
            preset = (LARGE if large else SMALL)[modality][0]
            try:
                registry, settings = _settings(job, modality, large)
                data = build_data(settings, registry)
            except Exception as error:
                traceback.print_exc()
                job.add(modality=modality, preset=preset, failed=str(error)[:300])
                continue
            name = {"modality": modality, "preset": preset, "batch": settings.train.batch_size}
            for way in _ways(job):
                job.attempt(lambda w=way, r=registry, s=settings, d=data: _training(job, r, s, d, w), **name, way=way)
            state, _ = _stepper(job, registry, settings, data, "tf32")
            job.attempt(
                lambda m=state.model, s=settings, d=data: {
                    "batches_per_second": round(1 / _timed(lambda: draw_batch(m, s, d, 3), job.device, 20), 1)
                },
                **name,
                way="input alone",
            )
            precision = "bfloat16" if large else "float32"
            job.attempt(
                lambda m=state.model, s=settings, r=registry, p=precision: _sampling(job, m, s, r, p),
                **name,
                way=f"sampling, {precision}",
            )


def _training(job: Job, registry: Any, settings: Any, data: Any, way: str) -> dict[str, Any]:
    import torch

    gpu = job.device == "cuda"
    started = time.perf_counter()
    state, step = _stepper(job, registry, settings, data, way)
    for _ in range(5):
        step()
    first = time.perf_counter() - started
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = _timed(step, job.device, 3)
    seconds = _timed(step, job.device, max(2, min(200, round(0.4 / seconds))))
    result = {
        "steps_per_second": round(1 / seconds, 2),
        "examples_per_second": round(settings.train.batch_size / seconds),
        "first_5_steps_seconds": round(first, 1),
        "parameters": sum(p.numel() for p in state.model.network.parameters()),
    }
    if gpu:
        result["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        result["synchronisations"] = synchronisations(step)
    if WAYS[way][2:] == (None, False):
        flops = _flops(step)
        result["gflop_per_step"] = round(flops / 1e9, 2)
        result["tflops"] = round(flops / seconds / 1e12, 2)
    return result


def _flops(step: Callable[[], None]) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def synchronisations(step: Callable[[], None]) -> dict[str, int]:
    """The places in Python at which one step waits for the GPU, and how often it does."""
    import torch

    torch.cuda.synchronize()
    places: dict[str, int] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for each in caught:
        if "synchroniz" in str(each.message):
            place = f"{Path(each.filename).name}:{each.lineno}"
            places[place] = places.get(place, 0) + 1
    return places


def _sampling(job: Job, model: Any, settings: Any, registry: Any, precision: str) -> dict[str, Any]:
    """Samples per second of an untrained network with the solver and the steps of the preset."""
    from diffcore.denoising.precision import compute_in
    from diffcore.runs.generation import example_conditions, generate, unguided_without_conditions
    from diffcore.runs.sampling_config import sampling_config

    n = 250 if job.device == "cuda" else 4
    compute_in(model.network, precision)
    config = sampling_config(settings.sample, registry, model)
    conditions = example_conditions(model, n, config)
    config = unguided_without_conditions(model, config, conditions)
    seconds = _timed(lambda: generate(model, config, conditions, n), job.device, 1, rounds=1)
    compute_in(model.network, "float32")
    return {"samples_per_second": round(n / seconds, 1), "config": config.describe()}


# Profile: where the time of a step and of sampling goes.


def profile(job: Job) -> None:
    """The operations that take most of the time of a step, and how busy the GPU is."""
    import torch
    from torch.profiler import ProfilerActivity

    from diffcore.runs.model import build_data

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (job.device == "cuda")
    for large in (False, True):
        for modality in SMALL:
            registry, settings = _settings(job, modality, large)
            data = build_data(settings, registry)
            _, step = _stepper(job, registry, settings, data, "bfloat16" if large else "tf32")
            for _ in range(3):
                step()
            for _ in range(2):  # the first profile pays for starting the profiler
                with torch.profiler.profile(activities=activities) as found:
                    for _ in range(3):
                        step()
                    if job.device == "cuda":
                        torch.cuda.synchronize()
            events = found.key_averages()
            on_gpu = sum(event.self_device_time_total for event in events) / 3e3
            wall = _timed(step, job.device, 10) * 1e3
            kernels = sum(e.count for e in events if e.self_device_time_total and not e.self_cpu_time_total) // 3
            job.add(
                modality=modality, large=large, step_ms=round(wall, 2), gpu_ms=round(on_gpu, 2), kernels=kernels,
                by_device=_top(events, "self_device_time_total"), by_cpu=_top(events, "self_cpu_time_total"),
            )  # fmt: skip


def _top(events: Any, key: str, count: int = 8) -> list[str]:
    ordered = sorted(events, key=lambda event: -getattr(event, key))[:count]
    return [f"{event.key[:60]}: {getattr(event, key) / 3e3:.2f} ms, {event.count // 3} calls" for event in ordered]


# Tests and commands: is it right.


def tests(job: Job) -> None:
    """The tests of the suite that need a device."""
    places = ["tests/training/test_gpu.py", "tests/training/test_global_state.py", "tests/tasks/test_tasks.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "8", "-p", "no:cacheprovider", *places]
    with (job.out / "pytest.txt").open("w") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode
    job.add(rc=code, last=Path(log.name).read_text().splitlines()[-15:])


def commands(job: Job) -> None:
    """`train`, `sample`, `evaluate` and `resume` of each modality, in each way of computing."""
    ways = {
        "float32": [],
        "bfloat16": ["--train.precision", "bfloat16", "--sample.precision", "bfloat16"],
        "graphs": ["--train.cuda-graphs"],
        "compiled": ["--train.compile", "--train.precision", "bfloat16"],
    }
    processes = {}
    for modality in SMALL:
        for way in job.options.commands or ways:
            flags = ways[way]
            run = job.out / "runs" / f"{modality}-{way}"
            train = ["train", "--modality", modality, "--out", run, "--train.steps", "60", "--train.evaluate", "0"]
            lines = [
                [*train, *flags, "--device", job.device],
                ["sample", run, "--n", "20", "--out", run / "drawn"],
                ["resume", run, "--train.steps", "80"],
                ["evaluate", run, "--n", "40"],
            ]
            script = " && ".join(
                f"{sys.executable} -m diffcore {' '.join(map(str, line))}"
                for line in lines[: 4 if way != "compiled" else 2]
            )
            log = (job.out / f"commands-{modality}-{way}.txt").open("w")
            processes[modality, way] = (
                subprocess.Popen(["bash", "-c", script], stdout=log, stderr=subprocess.STDOUT),
                log,
            )
    for (modality, way), (process, log) in processes.items():
        process.wait()
        log.close()
        last = Path(log.name).read_text().splitlines()[-3:]
        job.add(modality=modality, way=way, rc=process.returncode, last=last)


# Short trainings.

FAST = ("--train.precision", "bfloat16", "--train.cuda-graphs")


def _train(job: Job, name: str, *flags: str, seconds: float) -> None:
    run = job.out / "runs" / name
    minutes = ["--train.minutes", f"{seconds / 60:.2f}", "--train.steps", "1000000"]
    command = [sys.executable, "-m", "diffcore", "train", *flags, *minutes, "--out", str(run), "--device", job.device]
    started = time.perf_counter()
    with (job.out / f"train-{name}.txt").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    metrics = run / "metrics.json"
    log_file = run / "train_log.jsonl"
    job.add(
        name=name, rc=code, wall=round(time.perf_counter() - started, 1), command=" ".join(command[3:]),
        metrics=json.loads(metrics.read_text()) if metrics.is_file() else None,
        end=log_file.read_text().splitlines()[-1:] if log_file.is_file() else None,
    )  # fmt: skip


def qm9(job: Job) -> None:
    """QM9 with hydrogens, in bfloat16 and with CUDA graphs."""
    if job.data is None or not (job.data / "qm9").is_dir():
        job.add(skipped="no --data with qm9/")
        return
    flags = ["--modality", "molecule", "--preset", "qm9-gpu", "--data.root", str(job.data / "qm9"), *FAST]
    _train(job, "qm9", *flags, *job.options.flags, seconds=job.options.seconds - 75)


def pictures(job: Job) -> None:
    """Pictures of 64x64 pixels."""
    if job.data is None or not (job.data / "emoji").is_dir():
        job.add(skipped="no --data with emoji/")
        return
    flags = ["--modality", "image", "--preset", "folder-gpu", "--data.root", str(job.data / "emoji")]
    flags += ["--train.evaluate", "500"]
    _train(job, "pictures", *flags, *FAST, seconds=job.options.seconds - 40)


def sounds(job: Job) -> None:
    """Synthesised drums."""
    flags = ["--modality", "audio", "--preset", "drums-gpu", *FAST]
    _train(job, "sounds", *flags, seconds=job.options.seconds - 60)


def clouds(job: Job) -> None:
    """Generated shapes of 2,048 points."""
    flags = ["--modality", "pointcloud", "--preset", "shapes-gpu", "--data.shapes", "4000", *FAST]
    _train(job, "clouds", *flags, seconds=job.options.seconds - 60)


PARTS = (
    Part("machine", 30, machine),
    Part("compiled", 90, compiled, "correctness"),
    Part("tests", 80, tests, "correctness"),
    Part("commands", 80, commands, "correctness"),
    Part("throughput", 110, throughput),
    Part("profile", 45, profile),
    Part("qm9", 245, qm9),
    Part("pictures", 180, pictures),
    Part("sounds", 180, sounds),
    Part("clouds", 180, clouds),
)
HIDDEN = {"compile-one": compile_one}


def _shared(options: argparse.Namespace) -> list[str]:
    given = ["--out", options.out, "--device", options.device]
    given += ["--data", options.data] if options.data else []
    given += ["--ways", *options.ways] if options.ways else []
    given += ["--commands", *options.commands] if options.commands else []
    return given + (["--flags", *options.flags] if options.flags else [])


def main() -> None:
    """Run the parts, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS])
    parser.add_argument("--data")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS))
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="more flags of `train` for qm9")
    parser.add_argument("--commands", nargs="+", help="the ways in which `commands` computes")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--which", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    if options.part:
        work = HIDDEN.get(options.part) or next(part.work for part in PARTS if part.name == options.part)
        work(Job(options.part, options))
        return
    until = time.monotonic() + 60 * options.minutes
    chosen = [part for part in PARTS if not options.only or part.name in options.only]
    for _, group in groupby(chosen, key=lambda part: part.group or part.name):
        running = [_start(part, options, until) for part in group]
        for each in running:
            _finish(each, options)


@dataclass(frozen=True)
class Running:
    """A part at work."""

    part: Part
    process: subprocess.Popen | None
    until: float


def _start(part: Part, options: argparse.Namespace, until: float) -> Running:
    left = min(part.seconds, until - time.monotonic())
    if left < 10:
        return Running(part, None, until)
    command = [sys.executable, __file__, "--part", part.name, "--seconds", f"{left:.0f}", *_shared(options)]
    log = (Path(options.out) / f"{part.name}.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    return Running(part, process, time.monotonic() + left)


def _finish(running: Running, options: argparse.Namespace) -> None:
    """Wait for a part until its time is over, end it, and rewrite the report."""
    began, ended = time.monotonic(), "no time was left for it"
    if running.process is not None:
        try:
            code = running.process.wait(max(0.1, running.until - time.monotonic()))
            ended = f"ended with code {code}"
        except subprocess.TimeoutExpired:
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
            ended = "was stopped at its time limit"
    print(f"{running.part.name}: {ended} ({time.monotonic() - began:.0f} s)", flush=True)
    write_report(Path(options.out))


def write_report(out: Path) -> None:
    """All results so far as tables."""
    lines = ["# diffcore on a GPU", ""]
    for part in PARTS:
        place = out / f"{part.name}.json"
        if place.is_file():
            lines += [f"## {part.name}", "", part.work.__doc__ or "", ""]
            lines += [
                "- " + ", ".join(f"{key}: {value}" for key, value in row.items())
                for row in json.loads(place.read_text())
            ]
            lines.append("")
    (out / "report.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
