"""How exported denoisers differ from their runs: `python tests/benchmarks/exports.py [WORD...]`.

For each small model of tests/support/exported.py whose name has one of the words, all by default: the difference of the
program of torch.export and of the ONNX model from the run, as `diffcore.interop.checking` has it, and the seconds that
each takes to be written and checked.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch

from diffcore.errors import UserError
from diffcore.interop import onnx_format, torch_format
from diffcore.interop.checking import checked
from diffcore.interop.decoder import decoder_function
from diffcore.interop.denoiser import denoiser_function
from diffcore.interop.program import program_of
from diffcore.interop.writing import with_values

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.exported import CASES, STAGES, loaded


def row(name: str, function: object, folder: Path) -> str:
    """The line of a function in the table."""
    begin = time.perf_counter()
    try:
        function, program = program_of(function)
    except UserError as error:
        return f"| {name} | refused: {error} | | | |"
    described = with_values(function)
    sizes = "any" if function.elements else "-" if function.elements == 0 else "fixed"
    cells = []
    for number, chosen in enumerate((torch_format, onnx_format)):
        begin = begin if number == 0 else time.perf_counter()
        path = folder / f"{number}"
        try:
            chosen.save(program, described, path)
            difference = f"{checked(function, chosen.opened(path), name):.1e}"
        except UserError as error:
            difference = f"refused: {error}"
        cells += [difference, f"{time.perf_counter() - begin:.1f}"]
    return f"| {name} | {sizes} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    words = sys.argv[1:]
    print("| model | elements | torch: difference | s | onnx: difference | s |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            if words and not any(word in name for word in words):
                continue
            run, facts = loaded(name)
            print(row(name, denoiser_function(run, facts), Path(folder)), flush=True)
            if name in STAGES:
                print(row(f"{name}: decoder", decoder_function(run, facts), Path(folder)), flush=True)


if __name__ == "__main__":
    main()
