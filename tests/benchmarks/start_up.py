"""What commands take before they work: CPU seconds of a process, beside those of one that imports PyTorch alone.

The processes take turns; printed is the smallest time over rounds, and its ratio to that of PyTorch. The run is a
small one of the embedded digits, trained for one step first; `load a run` ends when its model has its weights.

    python tests/benchmarks/start_up.py [--rounds 7] [--json FILE]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

TRAIN = ["train", "--modality", "image", "--train.steps", "1", "--train.evaluate", "0", "--device", "cpu"]
SCRIPTS = {
    "import torch": "import torch",
    "sample --help": "from diffcore.cli import main; main(['sample', '--help'])",
    "load a run": "from diffcore import Run; from pathlib import Path; Run(Path('run')).model",
    "sample RUN": "from diffcore.cli import main; main(['sample', 'run', '--n', '1', '--steps', '1'])",
    "import tensordict": "import tensordict",
}
"""Scripts by the names that are printed; the last is what the others leave out."""


def cpu_seconds(script: str, folder: str) -> float:
    """The CPU time of a Python process that runs a script in `folder`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "diffcore", *TRAIN, "--out", "run"], cwd=folder, check=True)
        rounds = [
            {name: cpu_seconds(script, folder) for name, script in SCRIPTS.items()} for _ in range(options.rounds)
        ]
    found = {name: min(times[name] for times in rounds) for name in SCRIPTS}
    for name, seconds in found.items():
        print(f"{name:20}{seconds:6.2f} s{seconds / found['import torch']:8.2f} times import torch")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
