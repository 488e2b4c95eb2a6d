"""What a training step of the preset `qm9-gpu` costs: molecules per second, operations, bytes, and where the time goes.

    python tests/benchmarks/molecule_throughput.py [--seconds 20] [--batch 8] [--atoms 16 20 24 29] [--json FILE]

For molecules padded to each number of atoms it counts the floating-point operations of a step, forward and backward
(`torch.utils.flop_counter`), and the bytes that its operations read and write when they run one after another, as they
do without a compiler. It times steps on this device, which may be a CPU. The mean over the sizes of QM9 with hydrogens
follows for padding to 29 atoms and for batches of similar sizes (`train.buckets`).

The last lines are an ESTIMATE for an H100 in bfloat16. A step takes at least as long as its operations at `--tflops`
and as its bytes at `--bandwidth`. Compiled code reads and writes less, because it joins operations; `--fused` is the
part of the bytes that then remains.
"""

import argparse
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from diffcore.denoising.precision import compute_in
from diffcore.plugins.registry import installed
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.tasks.batch import draw_batch
from diffcore.tasks.buckets import with_sizes
from diffcore.tasks.objective import Objective


class Traffic(TorchDispatchMode):
    """Counts the bytes of the inputs and outputs of all operations that are no views, by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False) and not {"detach", "_unsafe_view"} & {*str(func).split(".")}:
            tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, torch.Tensor)]
            self.bytes[str(func).split(".")[1]] += sum(each.numel() * each.element_size() for each in tensors)
        return result


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="qm9-gpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--atoms", type=int, nargs="+", default=[16, 20, 24, 29])
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing, for all sizes together")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tflops", type=float, default=250.0, help="TFLOP/s that bfloat16 products reach")
    parser.add_argument("--bandwidth", type=float, default=2.3, help="TB/s that the memory reaches")
    parser.add_argument("--fused", type=float, default=0.35, help="part of the bytes that compiled code moves")
    parser.add_argument("--values", type=json.loads, default={}, help='other settings as JSON: {"denoiser": {...}}')
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    train = {"batch_size": options.batch, "compile": False, "buckets": 1}
    values = {
        "data": {"name": "embedded", "hydrogens": True, "properties": []},
        "train": train,
        "device": options.device,
    }
    registry = installed()
    settings = compose(registry, "molecule", options.preset, {**options.values, **values})
    data = build_data(settings, registry)
    model = build_model(settings, data.facts, registry)
    compute_in(model.network, settings.train.precision, options.compile)
    objective = Objective(model, settings)
    sized = with_sizes(model, data)
    sizes, most = sized.sizes, data.facts.max_atoms
    found: dict[str, Any] = {
        "device": str(model.device),
        "precision": settings.train.precision,
        "parameters": sum(each.numel() for each in model.network.parameters()),
    }
    print(f"{options.preset}: {found['parameters'] / 1e6:.1f} M parameters, {found['precision']} on {found['device']}")
    print(f"{'atoms':>6} {'GFLOP':>8} {'MB':>8} {'molecules/s':>12}   of a molecule, and on this device")
    rows = {}
    for atoms in options.atoms:
        largest = int(sizes[sizes <= atoms].max())
        chosen = (sizes == largest).nonzero()[:, 0][: options.batch]
        chosen = chosen.repeat(-(-options.batch // len(chosen)))[: options.batch]
        batch = draw_batch(model, settings, padded(sized, chosen, atoms), 0)
        rows[atoms] = measured(objective, batch, options.batch, options.seconds / len(options.atoms))
        row = rows[atoms]
        print(f"{atoms:>6} {row['flop'] / 1e9:>8.2f} {row['bytes'] / 1e6:>8.1f} {row['per_second']:>12.2f}")
    found["rows"] = rows
    top = max(options.atoms)
    print(f"bytes by operation at {top} atoms:", ", ".join(f"{k} {v:.0%}" for k, v in rows[top]["traffic"].items()))
    print(f"time by operation at {top} atoms:", ", ".join(f"{k} {v:.0%}" for k, v in rows[top]["times"].items()))
    whole = {key: rows[top][key] for key in ("flop", "bytes", "seconds")}
    places = [min((each for each in options.atoms if each >= size), default=top) for size in sizes.tolist()]
    share = Counter(places)
    mean = {
        key: sum(count * rows[atoms][key] for atoms, count in share.items()) / len(places)
        for key in ("flop", "bytes", "seconds")
    }
    print(f"sizes: {min(sizes)} to {max(sizes)} of {most} atoms, mean {sizes.double().mean():.1f}")
    for name, each in ((f"padded to {top}", whole), ("in buckets", mean)):
        eager = 1 / max(each["flop"] / options.tflops / 1e12, each["bytes"] / options.bandwidth / 1e12)
        fused = 1 / max(each["flop"] / options.tflops / 1e12, options.fused * each["bytes"] / options.bandwidth / 1e12)
        found[name] = {**each, "estimate": eager, "estimate_compiled": fused}
        print(
            f"{name}: {each['flop'] / 1e9:.2f} GFLOP, {each['bytes'] / 1e6:.0f} MB, {1 / each['seconds']:.2f} "
            f"molecules/s here; ESTIMATE for an H100: at most {eager:,.0f}/s, compiled {fused:,.0f}/s"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def padded(data: Any, chosen: torch.Tensor, atoms: int) -> Any:
    """The examples `chosen`, which are padded to a number of atoms."""
    return replace(data, examples=data.examples[chosen], sizes=torch.full((len(chosen),), atoms))


def measured(objective: Objective, batch: Any, size: int, seconds: float) -> dict[str, Any]:
    """Operations, bytes and seconds of a molecule, and the shares of the operations in bytes and in time."""

    def step() -> None:
        objective.zero_grad(set_to_none=True)
        objective(batch).backward()

    def wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    with Traffic() as traffic:
        step()
    wait()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not count:
        step()
        wait()
        count += 1
    elapsed = (time.perf_counter() - start) / count / size
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=kinds) as profiled:
        step()
        wait()
    events = profiled.key_averages()

    def own(event: Any) -> float:
        return float(event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total)

    spent = {event.key.removeprefix("aten::"): own(event) for event in events if event.key.startswith("aten::")}
    total, moved = sum(spent.values()), sum(traffic.bytes.values())
    return {
        "flop": counter.get_total_flops() / size,
        "bytes": moved / size,
        "seconds": elapsed,
        "per_second": 1 / elapsed,
        "traffic": {key: value / moved for key, value in traffic.bytes.most_common(8)},
        "times": {key: spent[key] / total for key in sorted(spent, key=spent.get, reverse=True)[:8]},
    }


if __name__ == "__main__":
    main()
