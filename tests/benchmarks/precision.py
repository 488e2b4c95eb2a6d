"""What bfloat16 and torch.compile gain: training steps a second of the networks of presets, in four ways.

Each preset is trained on examples of its own data; the ways take turns, and printed are medians over rounds and their
ratios to float32. Steps before the first round, in which networks are compiled, do not count; what they cost is printed
too. It runs on whatever device there is.

    python tests/benchmarks/precision.py [--presets image/default ...] [--threads 2] [--seconds 110] [--device auto]
        [--batch 16] [--rounds 5] [--ways float32 bfloat16 compile both] [--json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from diffcore.denoising.precision import compute_in
from diffcore.errors import UserError
from diffcore.plugins.registry import Registry, installed
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.tasks.batch import draw_batch
from diffcore.tasks.objective import Objective

WAYS = {
    "float32": ("float32", False),
    "bfloat16": ("bfloat16", False),
    "compile": ("float32", True),
    "both": ("bfloat16", True),
}
PRESETS = ("image/default", "molecule/default", "audio/default", "pointcloud/default")


def steps_of(registry: Registry, preset: str, options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """A training step of each way, but for the drawing of the batch, which is the same."""
    modality, _, name = preset.partition("/")
    file = {"device": options.device} | ({"train": {"batch_size": options.batch}} if options.batch else {})
    settings = compose(registry, modality, name or "default", file=file)
    data = build_data(settings, registry)

    def step_of(way: str) -> Callable[[], None]:
        model = build_model(settings, data.facts, registry)
        compute_in(model.network, *WAYS[way])
        objective = Objective(model, settings)
        optimizer = torch.optim.Adam(model.network.parameters(), lr=1e-5, fused=True)
        batch = draw_batch(model, settings, data, 0)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            objective(batch).backward()
            optimizer.step()
            if model.device.type == "cuda":
                torch.cuda.synchronize()

        return step

    return {way: step_of(way) for way in options.ways}


def timed(work: Callable[[], None], count: int = 1) -> float:
    """Seconds for each of `count` times."""
    started = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - started) / count


def measured(registry: Registry, preset: str, options: argparse.Namespace, until: float) -> dict[str, object]:
    """Steps a second of each way, and the seconds of its first step; a way that fails says why."""
    steps, first, failed = steps_of(registry, preset, options), {}, {}
    for way, step in list(steps.items()):
        if WAYS[way][1] and time.perf_counter() > until:  # translating takes long, and nothing interrupts it
            failed[way] = "no time left; give --seconds, or fewer --presets or --ways"
            del steps[way]
            continue
        try:
            first[way] = timed(step)
            step()
        except (UserError, RuntimeError) as error:
            failed[way] = str(error).splitlines()[0]
            del steps[way]
    each: dict[str, list[float]] = {way: [] for way in steps}
    for number in range(options.rounds):
        if number and time.perf_counter() > until:
            break
        for way, step in steps.items():
            once = timed(step)
            each[way].append(timed(step, max(1, min(50, round(0.5 / once)))))
    rates = {way: 1 / statistics.median(times) for way, times in each.items()}
    base = rates.get("float32")
    ratios = {way: rate / base for way, rate in rates.items()} if base else {}
    return {
        "preset": preset,
        "steps_per_second": rates,
        "ratio": ratios,
        "first_step_seconds": first,
        "rounds": min(map(len, each.values()), default=0),
        "failed": failed,
    }


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--seconds", type=float, default=110, help="shared by the presets; past them nothing is translated or repeated"
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--batch", type=int, help="examples a step; the preset's own by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    registry, began, rows = installed(), time.perf_counter(), []
    share = options.seconds / len(options.presets)
    for number, preset in enumerate(options.presets, start=1):
        rows.append(measured(registry, preset, options, began + number * share))
        if not options.json:
            show(rows[-1])
    if options.json:
        gpu = torch.cuda.is_available() and options.device != "cpu"
        device = torch.cuda.get_device_name() if gpu else f"cpu, {options.threads} threads"
        print(json.dumps({"device": device, "torch": str(torch.__version__), "presets": rows}, indent=2))


def show(row: dict) -> None:
    """A preset's lines."""
    print(row["preset"])
    for way, rate in row["steps_per_second"].items():
        ratio = row["ratio"].get(way, float("nan"))
        print(f"  {way:10}{rate:9.2f} steps/s  {ratio:5.2f} x   first step {row['first_step_seconds'][way]:.1f} s")
    for way, reason in row["failed"].items():
        print(f"  {way:10}{reason}")


if __name__ == "__main__":
    main()
