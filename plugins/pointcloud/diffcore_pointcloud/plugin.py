"""The records of this plugin. Importing them is fast: torch, trimesh and scipy are imported when a part is built."""

from collections.abc import Iterable

from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Component, Modality, Widget, lazy
from diffcore_pointcloud.options import (
    AutoencoderOptions,
    CloudFacts,
    FileOptions,
    LatentOptions,
    ShapesOptions,
    TokensOptions,
    TransformerOptions,
    WritingOptions,
)
from diffcore_pointcloud.presets import PRESETS

API_VERSION = 2

_lazy = lazy("diffcore_pointcloud")

POINTCLOUD = Modality(
    name="pointcloud",
    summary="point clouds: shapes as points on their surfaces",
    datasets=(
        Component(
            "shapes",
            "random furniture, aeroplanes and solids, generated",
            _lazy("data.datasets:shapes"),
            ShapesOptions,
            small={"points": 64, "pool": 128, "shapes": 256, "held_out": 10},
        ),
        Component(
            "meshes", "your own folder of meshes: OFF, OBJ, PLY, STL or GLB", _lazy("data.datasets:meshes"), FileOptions
        ),
        Component(
            "clouds",
            "your own folder of clouds: PLY, PCD, GLB, text, NPY or NPZ",
            _lazy("data.datasets:clouds"),
            FileOptions,
        ),
    ),
    denoisers=(
        Component(
            "latent",
            "attention through latent tokens; cost linear in the number of points",
            _lazy("networks:latent"),
            LatentOptions,
            symmetries=("permutation",),
            accepts=("tokens", "like_state"),
            small={"width": 32, "latents": 8, "latent_width": 32},
        ),
        Component(
            "transformer",
            "attention among all points; cost quadratic in their number",
            _lazy("networks:transformer"),
            TransformerOptions,
            symmetries=("permutation",),
            accepts=("tokens", "like_state"),
            small={"width": 32, "depth": 2},
        ),
        Component(
            "tokens",
            "transformer over the tokens of latents, for runs with a first stage",
            _lazy("autoencoder:tokens"),
            TokensOptions,
            accepts=("tokens",),
            small={"width": 32, "depth": 2},
        ),
    ),
    networks={
        "autoencoder": (
            Component(
                "tokens",
                "a few tokens that read from all points, and points that read from the tokens",
                _lazy("autoencoder:autoencoder"),
                AutoencoderOptions,
                small={"tokens": 8, "width": 16, "inner": 32},
            ),
        )
    },
    fidelity=_lazy("autoencoder:fidelity"),
    presets=PRESETS,
    facts=CloudFacts,
    codec=_lazy("codec:CloudCodec"),
    writer=_lazy("output.writer:writer_of"),
    writing=WritingOptions,
    outputs={"mesh": {"mesh": True}},
    evaluator=_lazy("evaluation.evaluator:build_evaluator"),
    reader=_lazy("data.reader:CloudReader"),
    distance=_lazy("evaluation.distance:ChamferDistance"),
    widgets=(Widget("free", "Choose the side that is drawn anew.", _lazy("output.cut:cut_chooser")),),
    contract=_lazy("contract:contract"),
    requires=("torch", "trimesh", "scipy", "mapbox_earcut"),
)


@hookimpl
def diffcore_modalities() -> Iterable[Modality]:
    return (POINTCLOUD,)
