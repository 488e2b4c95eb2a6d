"""The modality that is made of others by name, such as `a+b`.

Importing this module is quick: it imports no torch.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import Field, create_model

from diffcore.errors import UserError
from diffcore.plugins.records import Component, Modality, Place, Preset, Settings, lazy

SIGN = "+"
"""Stands between the names of the kinds of data that a joint one is made of."""

_own, _nn = lazy("diffcore.plugins.joint"), lazy("diffcore.nn")


def joint_modality(parts: Sequence[Modality]) -> Modality:
    """The kind of data whose samples are one of each of the `parts`. Raises `UserError` if two are the same."""
    names = [part.name for part in parts]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"the modality {SIGN.join(names)!r} names {twice} twice: a joint state is of different kinds")
    denoisers = {part.name: _denoiser_of(part) for part in parts}
    return Modality(
        name=SIGN.join(names),
        summary=f"pairs of {' and '.join(part.summary.partition(',')[0] for part in parts)}",
        datasets=(
            Component(
                "pairs",
                "your own folder of pairs: a folder of files of each kind, of which those of one name belong together",
                lambda options: _own("pairs:pairs")(options, parts),
                _data_options(parts),
            ),
        ),
        denoisers=(
            Component(
                "joint",
                "the network of each kind, which attends to tokens of the others",
                partial(_network, parts, denoisers),
                _options("JointOptions", {name: (part.options, own) for name, (part, own) in denoisers.items()}),
                accepts=("tokens",),
            ),
        ),
        presets={"default": Preset("networks of the default presets of both, 4,000 steps", _DEFAULT)},
        facts=_options("JointFacts", {part.name: (part.facts, ...) for part in parts}),
        codec=lambda facts: _own("codec:joint_codec")(facts, parts),
        writer=_own("output:JointWriter"),
        reader=lambda codec: _own("reader:JointReader")(codec),
        evaluator=_own("evaluator:joint_evaluator"),
        requires=tuple(dict.fromkeys(module for part in parts for module in part.requires)),
    )


_DEFAULT: Mapping[str, Any] = {
    "train": {
        "steps": 4000,
        "batch_size": 64,
        "optimizer": "muon",
        "learning_rate": 3e-3,
        "cooldown": 0.5,
        "ema_width": 0.05,
        "weighting": "v",
    },
    "sample": {"solver": "dpmpp-2m-sde", "steps": 40},
}


def _denoiser_of(part: Modality) -> tuple[Component, Settings]:
    """The network of a part and its options: those of its preset `default`."""
    chosen = dict(part.presets["default"].values.get("denoiser", {}))
    name = chosen.pop("name", part.denoisers[0].name)
    component = next(each for each in part.denoisers if each.name == name)
    return component, component.options(**chosen)


def files_of(part: Modality) -> Component:
    """The data set of a part that is read from a folder of the user. Raises `UserError` if there is none."""
    for component in part.datasets:
        if {"root", "class_level"} <= {*component.options.model_fields}:
            return component
    raise UserError(f"{part.name} has no data set of a folder of files, so it cannot be paired with another kind")


def _data_options(parts: Sequence[Modality]) -> type[Settings]:
    """The options of the data set `pairs`: a folder, and the options of the data set of each part."""
    kinds = " and ".join(part.name for part in parts)
    share = Field(0.1, gt=0, le=0.5, description="Fraction of the pairs that is held out, for evaluation.")
    own = {
        "root": (Place, Field(None, description=f"Folder with a folder of the files of each kind: {kinds}.")),
        "held_out": (float, share),
    }
    return _options("PairsOptions", {**own, **{part.name: _with_defaults(files_of(part).options) for part in parts}})


def _with_defaults(options: type[Settings]) -> tuple[type[Settings], Settings]:
    return options, options()


def _options(name: str, fields: Mapping[str, tuple[Any, Any]]) -> type[Settings]:
    """A model of options or facts with these fields, each a type and a default."""
    made: type[Settings] = create_model(name, __base__=Settings, **dict(fields))  # type: ignore[call-overload]
    return made


def _network(
    parts: Sequence[Modality],
    denoisers: Mapping[str, tuple[Component, Settings]],
    options: Any,
    space: Any,
    inputs: Any,
) -> Any:
    """The joint network. A part whose network has symmetries is read by its classifier, which respects them."""
    from diffcore.plugins.building import build

    def maker(part: Modality) -> Any:
        component, own = denoisers[part.name][0], getattr(options, part.name)

        def trunk(space: Any, inputs: Any) -> Any:
            return build("denoiser", component, own, space, *((inputs,) if component.accepts else ()))

        encoder = None
        if component.symmetries and part.classifiers:
            classifier = part.classifiers[0]
            encoder = partial(build, "classifier", classifier, classifier.options())
        return _nn("joint:Maker")(trunk, component.accepts, encoder)

    sides = {part.name: [name for name in space.parts if name.split(".")[0] == part.name] for part in parts}
    return _nn("joint:joint_network")(space, sides, {part.name: maker(part) for part in parts}, inputs)
