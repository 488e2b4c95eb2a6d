"""Meshes made of points with normals, compared with the surfaces that the points are from.

    python tests/benchmarks/cloud_meshes.py [RUN] [--shapes 10] [--points 8192] [--resolution 128] [--json FILE]

The shapes are new ones of the data set `shapes`, of all its default classes in turn; the longest side of each is 2. For
each way to get points with normals, the mesh is made, and 20,000 points are drawn from its surface and from the true
one. Distances are means over points, not squared, in thousandths of a unit:

* `to_mesh`: from a point of the true surface to the nearest point of the mesh;
* `to_true`: from a point of the mesh to the nearest point of the true surface;
* `chamfer`: the mean of both.

The ways are `real`, points of the true surface; `few`, as many of them as the run was trained on (512 without a run);
and with a RUN, a model of such shapes with normals, `drawn`: the model is given these few points and draws all others.
`floor` has the distances between two samplings of the true surface. `closed` is the number of meshes that are
watertight, and `seconds` the processor time for a mesh, and to draw its points, on one thread.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy
import torch
import trimesh
from scipy.spatial import cKDTree
from tensordict import TensorDict

import diffcore as dc
from diffcore.sampling.inverse.editing import inpainting
from diffcore.states.noise import generator_for
from diffcore_pointcloud.data.shapes import normals_of, points_on, surface
from diffcore_pointcloud.options import ShapesOptions
from diffcore_pointcloud.output.meshes import mesh_of
from diffcore_pointcloud.output.points import Points, unbatched

COMPARED = 20_000


def shapes(number: int, points: int):
    """For each shape: its class, `points` points with normals, and two samplings of its surface to compare with."""
    classes = ShapesOptions().classes
    for index in range(number):
        name = classes[index % len(classes)]
        generator = generator_for(0, "meshes", index)
        made = surface(name, 1, generator)
        positions, faces = points_on(made.triangles, points, generator)
        normals = normals_of(made.triangles[0, faces[0]])
        again = [points_on(made.triangles, COMPARED, generator)[0][0].numpy() for _ in range(2)]
        yield name, Points(positions[0].numpy(), normals.numpy()), again


def apart(mesh_points, true) -> dict[str, float]:
    """The distances between two sets of points."""
    to_mesh = 1000 * cKDTree(mesh_points).query(true)[0].mean()
    to_true = 1000 * cKDTree(true).query(mesh_points)[0].mean()
    return {"to_mesh": to_mesh, "to_true": to_true, "chamfer": (to_mesh + to_true) / 2}


def drawn(run: dc.Run, name: str, given: Points, points: int) -> Points:
    """A cloud of the model of which the first points are given."""
    codec = run.model.codec.resized(str(points))
    padded = {"positions": given.positions, "normals": given.normals}
    padded = {
        key: numpy.concatenate([value, value[:1].repeat(points - len(value), 0)]) for key, value in padded.items()
    }
    example = TensorDict({key: torch.from_numpy(value)[None] for key, value in padded.items()}, batch_size=[1])
    whole = type(codec)(codec.facts.model_copy(update={"points": points}))
    example["label"] = torch.zeros(1, dtype=torch.int64)
    state = whole.encode(example).state
    known = (torch.arange(points) < len(given))[None, :, None].expand(1, -1, 3)
    mask = TensorDict(dict.fromkeys(state.keys(), known), batch_size=[1])
    # The other points are independent given these, so nothing has to be sampled again to make them agree.
    constraint = inpainting(state, mask, codec.space, "repaint", resamplings=1)
    sampled = run.sample(1, label=name, size=points, constraint=replace(constraint, codec=codec, recipe={}))
    return unbatched(sampled.decoded)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--shapes", type=int, default=10)
    parser.add_argument("--points", type=int, default=8192)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = dc.load(options.run) if options.run else None
    few = run.model.codec.facts.points if run else 512
    rows: dict[str, list[dict[str, float]]] = {}
    for name, cloud, (true, again) in shapes(options.shapes, options.points):
        rows.setdefault("floor", []).append(apart(again, true))
        start = time.process_time()
        ways = {"real": (cloud, 0.0), "few": (cloud[:few], 0.0)}
        if run:
            model = drawn(run, name, cloud[:few], options.points)
            ways["drawn"] = (model, time.process_time() - start)
        for way, (points, to_draw) in ways.items():
            start = time.process_time()
            mesh = mesh_of(points, options.resolution)
            seconds = time.process_time() - start
            found = apart(trimesh.sample.sample_surface(mesh, COMPARED, seed=0)[0], true)
            found |= {"closed": float(mesh.is_watertight), "seconds": seconds, "seconds_to_draw": to_draw}
            rows.setdefault(way, []).append({"class": name, **found})
    means = {
        way: {key: numpy.mean([row[key] for row in each]).item() for key in each[0] if key != "class"}
        for way, each in rows.items()
    }
    for way, values in means.items():
        print(way, {key: round(value, 2) for key, value in values.items()})
    if options.json:
        options.json.write_text(json.dumps({"means": means, "shapes": rows}, indent=1))


if __name__ == "__main__":
    main()
