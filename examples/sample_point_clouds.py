"""Point clouds of each class, and a cloud completed of which half is known.

Trains the default preset of point clouds for 90 seconds, which shows that all works but not yet good shapes, or takes a
trained run, and writes into a folder

* `clouds/`: a PLY file for each sample, `clouds.npz` with all of them, `clouds.png`: a class a row;
* `part.ply`, the left half of a held-out shape, and `completed.png`: what is known in grey, completions, the shape.

    python examples/sample_point_clouds.py [--minutes 1.5] [--run RUN] [--out FOLDER]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tensordict import TensorDict

from diffcore.denoising.conditions import captions_of
from diffcore.plugins.data import Data
from diffcore.plugins.registry import installed
from diffcore.runs.folder import Run, describe, new_folder
from diffcore.runs.generation import generate
from diffcore.runs.loading import load_run
from diffcore.runs.model import Model, build_data, build_model
from diffcore.runs.sampling_config import SamplingConfig, sampling_config
from diffcore.runs.settings import compose
from diffcore.sampling.inverse.editing import inpainting
from diffcore.sampling.solvers import ddpm
from diffcore.training.loop import Callbacks, train
from diffcore_pointcloud.output.points import Points, colours, unbatched
from diffcore_pointcloud.output.turntable import sheet

GREY = (168, 172, 182)
"""The colour of what was known."""


def trained(minutes: float) -> tuple[Run, Model, Data, SamplingConfig]:
    """The default preset after so many minutes of training, in a new run folder."""
    registry = installed()
    settings = compose(registry, "pointcloud", file={"train": {"minutes": minutes}})
    data = build_data(settings, registry)
    model = build_model(settings, data.facts, registry)
    run = Run(new_folder(None, "pointcloud", "example"))
    describe(run, settings, data.facts.model_dump(mode="json"), registry)
    print(f"training {run.path} for {minutes:g} minutes")
    callbacks = Callbacks(log=lambda line: print(f"{line.done:4.0%}  {line.loss:.4f}"))
    return run, train(run, settings, model, data, callbacks).model, data, sampling_config(settings.sample, registry)


def opened(folder: Path) -> tuple[Run, Model, Data, SamplingConfig]:
    """A trained run and the data it was trained on."""
    registry = installed()
    settings, model = load_run(folder, registry, None, None)
    return Run(folder), model, build_data(settings, registry), sampling_config(settings.sample, registry)


def sample_classes(model: Model, config: SamplingConfig, each: int, out: Path) -> None:
    """Write `each` samples of every class, a row a class; of all where there are no classes."""
    classes = model.codec.facts.classes
    count = each * max(1, len(classes))
    asked = {"label": torch.arange(len(classes)).repeat_interleave(each)} if classes else {}
    samples = model.codec.decode(generate(model, config, asked, count).state)
    words = captions_of(model.codec.conditions, asked, count)
    writer = model.modality.writer(model.codec)
    (out / "clouds").mkdir(parents=True, exist_ok=True)
    writer.each(samples, out / "clouds", [f"{k:03d}" for k in range(count)], words)
    writer.together(samples, out / "clouds.npz", each, words)
    writer.together(samples, out / "clouds.png", each, words)
    print("\n".join(writer.summary(samples, words)))


def complete(model: Model, data: Data, count: int, out: Path) -> None:
    """Write the left half of a held-out cloud, read it as a part, and draw the rest `count` times."""
    assert data.held_out is not None, "these data keep nothing back"
    codec, writer = model.codec, model.modality.writer(model.codec)
    whole = data.held_out[:1]
    truth = codec.decode(codec.encode(whole).state)
    left = truth["positions"][0, :, 0] <= truth["positions"][0, :, 0].median()
    part = TensorDict({name: value[:, left] for name, value in truth.items()}, batch_size=[1])
    writer.together(part, out / "part.ply", 1)

    state, known = model.modality.reader(codec).read_part(out / "part.ply")
    guide = inpainting(state, known, codec.space)
    asked = {"label": whole["label"].repeat(count)} if codec.facts.classes else {}
    drawn = codec.decode(generate(model, SamplingConfig(ddpm(), steps=50), asked, count, constraint=guide).state)

    taken = int(left.sum())  # they come first
    shown = [*unbatched(part), *unbatched(drawn), *unbatched(truth)]
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
    parser.add_argument("--minutes", type=float, default=1.5, help="minutes of training (1.5)")
    parser.add_argument("--n", type=int, default=6, help="samples of each class, and completions (6)")
    parser.add_argument("--out", type=Path, help="folder of the files (the run's)")
    options = parser.parse_args(arguments)

    run, model, data, config = opened(options.run) if options.run else trained(options.minutes)
    out = options.out or run.path
    out.mkdir(parents=True, exist_ok=True)
    sample_classes(model, config, options.n, out)
    complete(model, data, options.n, out)
    for name in ("clouds", "clouds.npz", "clouds.png", "part.ply", "completed.png"):
        print(out / name)


if __name__ == "__main__":
    main(sys.argv[1:])
