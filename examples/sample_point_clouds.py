"""Point clouds of each class, and a cloud completed of which half is known.

Trains the default preset of point clouds for 800 steps, which shows that all works but not yet good shapes, or takes a
trained run, and writes into a folder

* `clouds/`: a PLY file for each sample, `clouds.npz` with all of them, `clouds.png`: a class a row;
* `part.ply`, the left half of a held-out shape, and `completed.png`: what is known in grey, completions, the shape.

    python examples/sample_point_clouds.py [--steps 800] [--run RUN] [--out FOLDER]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tensordict import TensorDict

import diffcore as dc
from diffcore_pointcloud.output.points import Points, colours, unbatched
from diffcore_pointcloud.output.turntable import sheet

GREY = (168, 172, 182)
"""The colour of what was known."""


def sample_classes(run: dc.Run, each: int, out: Path) -> None:
    """Write `each` samples of every class, a row a class; of all where there are no classes."""
    classes = run.model.codec.facts.classes
    label = [name for name in classes for _ in range(each)]
    samples = run.sample(each * max(1, len(classes)), conditions={"label": label} if classes else None)
    samples.save(out / "clouds")
    writer = run.model.modality.writer(run.model.codec)
    for name in ("clouds.npz", "clouds.png"):
        writer.together(samples.decoded, out / name, each, samples.captions)
    print("\n".join(samples.summary()))


def complete(run: dc.Run, count: int, out: Path) -> None:
    """Write the left half of a held-out cloud, read it as a part, and draw the rest `count` times."""
    held_out = run.data.held_out
    assert held_out is not None, "these data keep no examples back"
    codec, writer = run.model.codec, run.model.modality.writer(run.model.codec)
    whole = held_out[:1]
    truth = codec.decode(codec.encode(whole).state)
    left = truth["positions"][0, :, 0] <= truth["positions"][0, :, 0].median()
    part = TensorDict({name: value[:, left] for name, value in truth.items()}, batch_size=[1])
    writer.together(part, out / "part.ply", 1)

    label = codec.facts.classes[int(whole["label"])] if codec.facts.classes else None
    drawn = run.inpaint(out / "part.ply", n=count, label=label, steps=50)

    taken = int(left.sum())  # they come first
    shown = [*unbatched(part), *unbatched(drawn.decoded), *unbatched(truth)]
    inked = [greyed(points, 0 if k == len(shown) - 1 else taken) for k, points in enumerate(shown)]
    sheet(inked, count + 2, ["known", *["completed"] * count, "held out"]).save(out / "completed.png")


def greyed(points: Points, first: int) -> Points:
    """The cloud with its first points in grey."""
    inks = colours(points).copy()
    inks[:first] = GREY
    return Points(points.positions, points.normals, inks)


def main(arguments: Sequence[str] = ()) -> None:
    """Samples of each class and completions; prints where the files are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a trained run of point clouds, in place of training")
    parser.add_argument("--steps", type=int, default=800, help="steps of training (800)")
    parser.add_argument("--n", type=int, default=6, help="samples of each class, and completions (6)")
    parser.add_argument("--out", type=Path, help="folder of the files (the run's)")
    options = parser.parse_args(arguments)

    train = {"steps": options.steps, "evaluate": 0}
    run = dc.load(options.run) if options.run else dc.train("pointcloud", train=train)
    out = options.out or run.path
    out.mkdir(parents=True, exist_ok=True)
    sample_classes(run, options.n, out)
    complete(run, options.n, out)
    for name in ("clouds", "clouds.npz", "clouds.png", "part.ply", "completed.png"):
        print(out / name)


if __name__ == "__main__":
    main(sys.argv[1:])
