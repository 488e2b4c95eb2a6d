"""A picture of what a run of pairs draws: each side given the other, for a held-out example of each class.

    python tests/benchmarks/pairs.py RUN --out PICTURE.png

For a run of pictures and sounds (`examples/pairs_of_digits.py`). Above: held-out sounds, and pictures drawn for them;
below: held-out pictures, and sounds drawn for them.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from PIL import Image

import diffcore as dc
from diffcore.plugins.building import part_of
from diffcore.plugins.joint.samples import of_side
from diffcore.runs.coding import encode
from diffcore.runs.joint import others_given

WIDTH, ROWS = 1100, 4


def main(path: Path, out: Path) -> None:
    run = dc.load(path)
    held_out = run.data.held_out
    assert held_out is not None, "these data keep no examples back"
    labels = held_out["image.label"]
    rows = torch.tensor([int((labels == label).nonzero()[0, 0]) for label in labels.unique()])
    examples = encode(run.model, held_out[rows])
    codec = run.model.codec
    writers = {name: part_of(modality, "writer", codec.sides[name]) for name, modality in codec.modalities.items()}
    strips = []
    for side, other in (("image", "audio"), ("audio", "image")):
        state = torch.cat([examples.state] * ROWS)
        drawn = run.sample(len(state), constraint=others_given(run.model, side, state, None), conditions={})
        shown = codec.decode(examples.state)
        strips.append(strip(writers[other], of_side(shown, other), len(rows)))
        strips.append(strip(writers[side], of_side(drawn.decoded, side), len(rows)))
    whole = Image.new("RGB", (WIDTH, sum(image.height for image in strips) + 12 * len(strips)), "white")
    top = 0
    for image in strips:
        whole.paste(image, (0, top))
        top += image.height + 12
    whole.save(out)


def strip(writer, samples, columns: int) -> Image.Image:
    """The overview of samples that their writer draws, in rows of `columns`, of the width of the picture."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overview.png"
        writer.together(samples, path, columns)
        image = Image.open(path).convert("RGB")
    return image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("pairs.png"))
    main(parser.parse_args().run, parser.parse_args().out)
