"""Molecules whose logP is what one asks for.

Trains the molecule plugin's default preset (10,000 molecules of QM9, embedded), or takes a trained
run, then draws molecules for five values of logP that the data have, with guidance. Prints what was asked and what was
obtained, and writes

* `targets.png`: asked against obtained, and for each target the first valid molecules that were drawn;
* `targets.sdf`: all samples with their places, `asked_logp` and `logp`.

    python examples/molecules_with_target_properties.py [--steps 3700] [--run RUN] [--out FOLDER]
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import diffcore as dc
from diffcore.denoising.sizes import Sizes
from diffcore_molecule.output.depiction import sheet
from diffcore_molecule.output.records import Record, records

PROPERTY = "logp"
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Targets are the values below which these shares of the training molecules lie."""
SHOWN = 5
"""Molecules in a row of the picture."""


@dataclass(frozen=True)
class Row:
    """What came of one target."""

    asked: float
    samples: list[Record]
    by_size: float
    """The error of molecules of the data that have as many atoms and else nothing to do with the target."""

    @property
    def obtained(self) -> torch.Tensor:
        """The values of the valid samples."""
        return torch.tensor([s.properties[PROPERTY] for s in self.samples if s.valid], dtype=torch.float64)

    @property
    def error(self) -> float:
        """The mean absolute error of the valid samples."""
        return (self.obtained - self.asked).abs().mean().item()

    @property
    def valid(self) -> float:
        """The share of samples that are molecules."""
        return len(self.obtained) / len(self.samples)


def errors_by_size(sizes: Sizes, targets: torch.Tensor) -> list[float]:
    """For each target t the sum over sizes n of p(n | t) E|y - t|, where y is normal, as among molecules of n atoms.

    The absolute value of a normal number of mean m and standard deviation s has the mean
    s sqrt(2 / pi) exp(-m^2 / 2 s^2) + m erf(m / s sqrt(2)).
    """
    shares = sizes.log_probabilities({PROPERTY: targets}, len(targets)).softmax(1)
    mean, std = torch.tensor(sizes.about[PROPERTY], dtype=torch.float64).T
    away = targets.double()[:, None] - mean
    z = away / (std.clamp(min=1e-6) * math.sqrt(2))
    folded = std * math.sqrt(2 / math.pi) * (-z.square()).exp() + away * torch.erf(z)
    return (shares * folded).sum(1).tolist()


def error_of_a_guess(sizes: Sizes) -> float:
    """E|y - mean of its size| over the data: what one can tell of y who knows the number of atoms alone."""
    shares = torch.tensor(list(sizes.counts.values()), dtype=torch.float64)
    stds = torch.tensor(sizes.about[PROPERTY], dtype=torch.float64)[:, 1]
    return math.sqrt(2 / math.pi) * ((shares / shares.sum()) * stds).sum().item()


def main(arguments: Sequence[str] = ()) -> list[Row]:
    """What came of each target; writes the files and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a trained run of molecules, in place of training")
    parser.add_argument("--steps", type=int, default=3700, help="steps of training (3700)")
    parser.add_argument("--n", type=int, default=100, help="samples for each target (100)")
    parser.add_argument("--guidance", type=float, default=2, help="weight of guidance (2)")
    parser.add_argument("--out", type=Path, help="folder of the two files (the run's)")
    options = parser.parse_args(arguments)

    train = {"steps": options.steps, "evaluate": 0}
    run = dc.load(options.run) if options.run else dc.train("molecule", train=train)
    model = run.model
    known = {condition.name: condition for condition in model.codec.conditions}
    if PROPERTY not in known:
        parser.error(f"{run.path} was trained without {PROPERTY}")
    quantiles = known[PROPERTY].quantiles
    targets = torch.tensor([round(quantiles[round(share * (len(quantiles) - 1))], 1) for share in SHARES])

    n = options.n
    asked = [target for target in targets.tolist() for _ in range(n)]
    samples = run.sample(len(asked), conditions={PROPERTY: asked}, guidance=options.guidance)
    found = records(samples.decoded, model.codec.facts.hydrogens, samples.captions)
    sizes = model.codec.sizes
    bounds = errors_by_size(sizes, targets)
    rows = [Row(t, found[k * n : (k + 1) * n], bounds[k]) for k, t in enumerate(targets.tolist())]

    out = options.out or run.path
    out.mkdir(parents=True, exist_ok=True)
    model.modality.writer(model.codec).together(samples.decoded, out / "targets.sdf", SHOWN, samples.captions)
    picture(rows).save(out / "targets.png")
    print(table(rows))
    guess = error_of_a_guess(sizes)
    print(f"a guess of the {PROPERTY} of the data's molecules by their numbers of atoms alone is off by {guess:.2f}")
    print(f"{out / 'targets.png'}\n{out / 'targets.sdf'}")
    return rows


def table(rows: Sequence[Row]) -> str:
    """A line a target: what was asked, mean and standard deviation of what was obtained, the mean absolute error.

    Beside it that of molecules of the data with as many atoms, and the share of samples that are valid.
    """
    lines = [f"{'asked':>6}{'obtained':>16}{'off by':>9}{'of that size':>15}{'valid':>8}"]
    for row in rows:
        values = row.obtained
        told = f"{values.mean():.2f} +- {values.std(correction=0):.2f}" if len(values) else "nothing"
        lines.append(f"{row.asked:6.1f}{told:>16}{row.error:9.2f}{row.by_size:15.2f}{row.valid:8.0%}")
    means = (sum(getattr(row, name) for row in rows) / len(rows) for name in ("error", "by_size", "valid"))
    return "\n".join([*lines, "{:>22}{:9.2f}{:15.2f}{:8.0%}".format("mean", *means)])


def picture(rows: Sequence[Row]) -> Image.Image:
    """The scatter above, molecules below: a row a target."""
    shown, legends = [], []
    for row in rows:
        few = sorted(row.samples, key=lambda sample: not sample.valid)[:SHOWN]
        shown += few
        legends += [f"asked {row.asked:.1f}, got {s.properties[PROPERTY]:.2f}" if s.valid else "not valid" for s in few]
    molecules = sheet(shown, legends, min(SHOWN, len(rows[0].samples)))
    above = scatter(rows, molecules.width)
    whole = Image.new("RGB", (molecules.width, above.height + molecules.height), "white")
    whole.paste(above, (0, 0))
    whole.paste(molecules, (0, above.height))
    return whole


def scatter(rows: Sequence[Row], width: int, height: int = 620) -> Image.Image:
    """Obtained (upwards) against asked, a dot a valid sample; lines: obtained = asked, and the mean of each target."""
    fine = 2  # drawn larger and scaled down, for smooth edges
    canvas = Image.new("RGB", (fine * width, fine * height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(15 * fine)
    values = torch.cat([torch.tensor([row.asked for row in rows]), *(row.obtained for row in rows)])
    low, high = values.min().item() - 0.4, values.max().item() + 0.4
    left, right, top, bottom = 80, width - 30, 20, height - 60

    def place(asked: float, obtained: float) -> tuple[float, float]:
        across, up = ((value - low) / (high - low) for value in (asked, obtained))
        return fine * (left + across * (right - left)), fine * (bottom - up * (bottom - top))

    def dot(centre: tuple[float, float], radius: float, colour: str) -> None:
        x, y = centre
        pen.ellipse((x - fine * radius, y - fine * radius, x + fine * radius, y + fine * radius), fill=colour)

    for tick in range(int(-(-low // 1)), int(high // 1) + 1):
        x, y = place(tick, tick)
        pen.line((fine * left, y, fine * right, y), fill="#e5e7eb", width=fine)
        pen.line((x, fine * top, x, fine * bottom), fill="#e5e7eb", width=fine)
        pen.text((fine * (left - 10), y), f"{tick}", fill="#555", font=font, anchor="rm")
        pen.text((x, fine * (bottom + 8)), f"{tick}", fill="#555", font=font, anchor="mt")
    pen.line((*place(low, low), *place(high, high)), fill="#999", width=2 * fine)
    pen.text((fine * (left + right) / 2, fine * (height - 8)), f"{PROPERTY} asked", fill="#222", font=font, anchor="mb")
    pen.text((fine * (left + 10), fine * (top + 6)), f"{PROPERTY} obtained", fill="#222", font=font, anchor="lt")
    spread = min((b.asked - a.asked for a, b in pairwise(rows)), default=1.0) / 4
    for row in rows:
        for index, value in enumerate(row.obtained.tolist()):
            aside = (index * 0.618034 % 1 - 0.5) * 2 * spread  # so that equal values do not hide each other
            dot(place(row.asked + aside, value), 3, "#93b4f5")
        if len(row.obtained):
            mean = row.obtained.mean().item()
            pen.line(
                (*place(row.asked - spread, mean), *place(row.asked + spread, mean)), fill="#1d4ed8", width=3 * fine
            )
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(sys.argv[1:])
