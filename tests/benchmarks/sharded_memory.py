"""Memory of each process that trains a large network with `fsdp`: its peak while the network is built, in steps, while
a checkpoint is written, while the training is resumed from it, and while the whole average is there for pictures.

Each number of processes is started by torchrun, joined by gloo, on the CPUs. What is printed is the peak of the
resident memory (VmHWM of Linux, which is reset before each stage) beyond that after the imports, in MB, of the leader
and of the process with the most. The network is a transformer for the embedded digits, of 153 million parameters by
default; weights, gradients, moments and average are 20 bytes each.

    python tests/benchmarks/sharded_memory.py [--processes 1 2 4] [--width 1024] [--depth 8] [--folder FOLDER]
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

STAGES = ("build", "step", "checkpoint", "resume", "average")


def memory(name: str) -> int:
    """A number of bytes in the status of this process: VmRSS, or VmHWM, its peak."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


class Peaks:
    """The peak of each stage beyond the memory at the beginning, and the seconds that it took."""

    def __init__(self) -> None:
        self.before, self.found = memory("VmRSS"), dict[str, tuple[float, float]]()

    def stage(self, name: str, do: Callable[[], object]) -> object:
        """Do something, and note its peak."""
        Path("/proc/self/clear_refs").write_text("5")
        started = time.perf_counter()
        result = do()
        self.found[name] = ((memory("VmHWM") - self.before) / 1e6, time.perf_counter() - started)
        return result


def work(options: argparse.Namespace) -> None:
    """What each process does."""
    # The imports that the first step makes are not what is measured.

    from diffcore.plugins.registry import installed
    from diffcore.runs.checkpoints import Progress, find_checkpoint
    from diffcore.runs.composing import compose
    from diffcore.runs.folder import RunFolder
    from diffcore.runs.model import build_data, build_model
    from diffcore.system.distributed import joined, rank
    from diffcore.training.callbacks import Callbacks
    from diffcore.training.checkpointing import resume, save
    from diffcore.training.loop_state import LoopState
    from diffcore.training.state import TrainState

    run = RunFolder(options.folder)
    chosen = {
        "device": "cpu",
        "denoiser": {"name": "dit", "heads": 8, "width": options.width, "depth": options.depth},
        "train": {"steps": 2, "batch_size": 8, "parallel": "fsdp"},
    }
    registry = installed()
    with joined():
        settings = compose(registry, "image", file=chosen)
        data = build_data(settings, registry)
        peaks = Peaks()

        def build() -> LoopState:
            model = build_model(settings, data.facts, registry, in_rows=True)
            model.network.train()
            return LoopState(run, settings.train, Callbacks(), TrainState(model, settings, data))

        loop = peaks.stage("build", build)
        assert isinstance(loop, LoopState)
        if options.part == "begin":
            peaks.stage("step", lambda: [loop.losses.append(loop.train_state.advance(k, 1e-4)) for k in range(2)])
            loop.progress = Progress(2, 1.0)
            peaks.stage("checkpoint", lambda: save(loop))
            peaks.stage("average", loop.train_state.averaged)
        else:
            peaks.stage("resume", lambda: resume(loop, find_checkpoint(run)))
        (options.folder / f"{options.part}-{rank()}.json").write_text(json.dumps(peaks.found))


def main() -> None:
    """Start the processes, and print what they have found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written; by default in a temporary one")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        work(options)
        return
    print("peak beyond imports, MB: leader / most (seconds)")
    print("processes  " + "".join(f"{name:24}" for name in STAGES))
    for count in options.processes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found: dict[str, list[list[float]]] = {}
            for part in ("begin", "again"):
                words = ["--standalone", "--nproc-per-node", str(count), __file__, "--part", part, "--folder", folder]
                words += ["--width", str(options.width), "--depth", str(options.depth)]
                subprocess.run([sys.executable, "-m", "torch.distributed.run", *words], check=True)
                for number in range(count):
                    for name, peak in json.loads((Path(folder) / f"{part}-{number}.json").read_text()).items():
                        if part == "begin" or name == "resume":
                            found.setdefault(name, []).append(peak)
        line = []
        for name in STAGES:
            peaks = [peak for peak, _ in found[name]]
            line.append(f"{peaks[0]:.0f} / {max(peaks):.0f} ({max(seconds for _, seconds in found[name]):.1f} s)")
        print(f"{count:<11}" + "".join(f"{text:24}" for text in line), flush=True)


if __name__ == "__main__":
    main()
