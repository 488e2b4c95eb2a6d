"""The codec of joint states: that of each kind of data for its own side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import Condition
from diffcore.denoising.sizes import Sizes
from diffcore.errors import UserError
from diffcore.plugins.building import part_of
from diffcore.plugins.data import Codec, Encoded
from diffcore.plugins.joint.samples import apart, columns_of
from diffcore.plugins.records import Modality
from diffcore.states.noise import Draws, seed_of
from diffcore.states.spaces import Mask, Product, Space, Whole
from diffcore.states.state import State, fields, from_fields, named


def joint_codec(facts: Any, parts: Sequence[Modality]) -> "JointCodec":
    """The codec of the sides that the `parts` describe, each with its facts."""
    return JointCodec({part.name: (part, part_of(part, "codec", getattr(facts, part.name))) for part in parts})


class JointCodec:
    """Represents a pair as one state: the fields of each side, called `SIDE`, or `SIDE.FIELD` where it has several.

    A condition that the sides have in common, of one name and with the same classes, is one condition of the pair.
    Others are called `SIDE.NAME` where two sides have one of that name. Samples are lists of mappings, see
    `diffcore.plugins.joint.samples`.

    Raises `UserError` if the number of elements of more than one side varies, and for conditions in the form of a
    state.
    """

    def __init__(self, sides: Mapping[str, tuple[Modality, Codec]]) -> None:
        self.modalities = {name: modality for name, (modality, _) in sides.items()}
        self.sides = {name: codec for name, (_, codec) in sides.items()}
        sized = [name for name, codec in self.sides.items() if codec.sizes is not None]
        if len(sized) > 1:
            raise UserError(
                f"the numbers of elements of {' and '.join(sized)} vary, and only one side of a joint state may do so"
            )
        self._sized = sized[0] if sized else None
        self.sizes: Sizes | None = self.sides[sized[0]].sizes if sized else None
        self.joint: dict[str, tuple[str, ...]] = {}
        parts: dict[str, Space] = {}
        for name, codec in self.sides.items():
            own = {_full(name, field): space for field, space in _spaces(codec.space).items()}
            self.joint[name] = tuple(own)
            parts |= own if self._sized in (None, name) else {field: Whole(space) for field, space in own.items()}
        self.space = Product(parts)
        self.names = _names_of_conditions(self.sides)
        found: dict[str, Condition] = {}
        for side, names in self.names.items():
            for condition in self.sides[side].conditions:
                if "like_state" in condition.inputs.names:
                    raise UserError(
                        f"the condition {condition.name} of {side} has the form of its samples, which a joint state "
                        "cannot be given: leave it out"
                    )
                found.setdefault(names[condition.name], _renamed(condition, names[condition.name]))
        self.conditions = tuple(found.values())

    def encode(self, examples: TensorDict, draws: Draws | None = None) -> Encoded:
        """Encode the columns `SIDE.COLUMN` of examples; each side is augmented by random numbers of its own."""
        state: dict[str, Tensor] = {}
        conditions: dict[str, Tensor] = {}
        mask: Mask = None
        for name, codec in self.sides.items():
            own = None if draws is None else replace(draws, seed=seed_of(draws.seed, name))
            encoded = codec.encode(columns_of(examples, name), own)
            state |= {_full(name, field): value for field, value in fields(encoded.state).items()}
            conditions |= {self.names[name][key]: value for key, value in encoded.conditions.items()}
            mask = encoded.mask if name == self._sized else mask
        return Encoded(named(state), conditions, mask)

    def decode(self, state: State, mask: Mask = None) -> list[dict[str, Any]]:
        """A mapping of each side to a batch of one sample, for each state."""
        return apart(
            {
                name: codec.decode(self.side(name, state), mask if name == self._sized else None)
                for name, codec in self.sides.items()
            }
        )

    def side(self, name: str, state: State) -> State:
        """The state of a side, as its own codec has it."""
        values = fields(state)
        return from_fields({_own(name, field): values[field] for field in self.joint[name]})

    def fields_of(self, name: str, state: State) -> dict[str, Any]:
        """The fields of the joint state that the state of a side has."""
        return {_full(name, field): value for field, value in fields(state).items()}


def _renamed(condition: Any, name: str) -> Condition:
    """The condition under another name."""
    made: Condition = condition if condition.name == name else replace(condition, name=name)
    return made


def _spaces(space: Space) -> Mapping[str, Space]:
    """The space of each field; that of a plain tensor is called `""`."""
    return space.parts if isinstance(space, Product) else {"": space}


def _full(side: str, field: str) -> str:
    return f"{side}.{field}" if field else side


def _own(side: str, field: str) -> str:
    return "" if field == side else field.removeprefix(f"{side}.")


def _names_of_conditions(sides: Mapping[str, Codec]) -> dict[str, dict[str, str]]:
    """The names in the joint state of the conditions of each side, by their own names."""
    by_name: dict[str, list[Condition]] = {}
    for codec in sides.values():
        for condition in codec.conditions:
            by_name.setdefault(condition.name, []).append(condition)
    shared = {name for name, each in by_name.items() if all(other == each[0] for other in each)}
    return {
        side: {each.name: each.name if each.name in shared else f"{side}.{each.name}" for each in codec.conditions}
        for side, codec in sides.items()
    }
