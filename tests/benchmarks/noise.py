"""What random numbers as functions of the sample cost, beside generators: milliseconds, and their ratios.

* the noise of 256 images of 3 x 32 x 32, beside `torch.randn`, which draws all from one stream;
* the noise of 256 molecules of nine atoms, four fields, beside a generator of PyTorch for each sample, which was how
  samples got noise of their own before;
* a draw of one number a sample, which is the least that a draw costs.

Contestants take turns; printed are medians over rounds. Then a function compiled by `torch.compile` is checked to draw
the same numbers.

    python tests/benchmarks/noise.py [--rounds 15] [--threads 1] [--device cpu] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from diffcore.states.noise import Draws, generator_for
from diffcore.states.state import State, map_fields, named

SAMPLES, ATOMS = 256, 9
IMAGES = torch.zeros(SAMPLES, 3, 32, 32)
MOLECULES = {"positions": (ATOMS, 3), "atoms": (ATOMS, 4), "charges": (ATOMS, 1), "bonds": (ATOMS, ATOMS, 4)}


def by_generators(like: State) -> State:
    """A generator for each sample: seeded, asked for each field, and its numbers stacked and copied to the device."""
    generators = [generator_for(0, "sample", index) for index in range(SAMPLES)]

    def draw(field: Tensor) -> Tensor:
        return torch.stack([torch.randn(field.shape[1:], generator=g) for g in generators]).to(field.device)

    return map_fields(draw, like)


def milliseconds(functions: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """The median time of each function, in turns, after one call of each that does not count."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def check_compiled(device: torch.device) -> str:
    """Whether a compiled function draws the numbers of the plain one, for new samples and streams too."""

    def noisy(x: Tensor, draws: Draws, step: int) -> Tensor:
        drawn = draws.normal(("fresh", step), x)
        assert isinstance(drawn, Tensor)
        return 2 * x + drawn

    compiled = torch.compile(noisy, backend="eager", fullgraph=True)
    for batch, step in ((4, 0), (4, 1), (7, 1)):
        x, draws = torch.ones(batch, 5, device=device), Draws.of(3, range(batch), device)
        if not torch.equal(compiled(x, draws, step), noisy(x, draws, step)):
            return "differs"
    return "the same"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    images = IMAGES.to(device)
    molecules = named({name: torch.zeros(SAMPLES, *shape, device=device) for name, shape in MOLECULES.items()})
    draws = Draws.of(0, range(SAMPLES), device)
    found = milliseconds(
        {
            "images": lambda: draws.normal("a", images),
            "images, torch.randn": lambda: torch.randn(images.shape, device=device),
            "molecules": lambda: draws.normal("a", molecules),
            "molecules, a generator a sample": lambda: by_generators(molecules),
            "one number": lambda: draws.uniform("a"),
        },
        options.rounds,
        device,
    )
    ratios = {
        "images, times the time of torch.randn": found["images"] / found["images, torch.randn"],
        "molecules, times as fast as generators": found["molecules, a generator a sample"] / found["molecules"],
    }
    for name, value in found.items():
        print(f"{name:40} {value:8.3f} ms")
    for name, value in ratios.items():
        print(f"{name:40} {value:8.2f}")
    print(f"compiled by torch.compile                {check_compiled(device)}")
    if options.json:
        options.json.write_text(json.dumps({"milliseconds": found, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
