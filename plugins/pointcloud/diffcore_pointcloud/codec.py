"""The codec of point clouds: encodes them as states of zero mean and unit variance, and decodes states."""

import logging
import math

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import ClassCondition, Condition
from diffcore.denoising.sizes import whole_number
from diffcore.errors import UserError
from diffcore.plugins.data import Drawn, Encoded
from diffcore.plugins.text import text_conditions, text_values
from diffcore.states.categories import CategoricalField, one_hot
from diffcore.states.noise import Draws
from diffcore.states.placement import to_device
from diffcore.states.spaces import Euclidean, Mask, Product
from diffcore.states.state import State
from diffcore_pointcloud.enlarging import small_cloud
from diffcore_pointcloud.options import CloudFacts

logger = logging.getLogger(__name__)

MOST_SAMPLED = 2**22
"""The largest number of points of a sample."""
NORMAL_SCALE = 1 / math.sqrt(3)
"""The standard deviation of the coordinates of unit vectors of zero mean, such as the normals of a closed surface."""

PARTS_STD = 0.3
"""The standard deviation of the codes of parts in the state, where that of positions is 1.

With less, labels are decided later on the way from noise to data, when the shape is there. docs/figures.md compares 1,
0.3 and 0.1.
"""


class CloudCodec:
    """Represents a cloud of P points as a state of up to four fields, the first three of them `[P, 3]`:

    * `positions`: (position - centre) / scale;
    * `normals`: unit vectors times sqrt(3);
    * `colours`: (colour / 255 - mean) / std;
    * `parts` `[P, K]`: a scaled one-hot code (`one_hot`) of which of K parts the point is of. With it, the state is
      joint: the parts are one side, and the shape, which is the other fields, is the other.

    If there are only positions, the state is their tensor. Examples contain a pool of points: `positions`
    `[B, pool, 3]`, `normals` and uint8 `colours` of the same shape, and uint8 `parts` `[B, pool]`. If some pools are
    padded by repeating points, `count` `[B]` is the number of points at the start of each pool to draw from. Samples
    are a TensorDict of float32 `positions` in the data's unit, unit `normals`, uint8 `colours`, and `parts` `[B, P]`,
    int64 labels as files have them.
    """

    def __init__(self, facts: CloudFacts, points: int | None = None) -> None:
        """The codec for `facts`; `points` is the number of points of samples, that of the facts if None."""
        self.facts = facts
        self.points = facts.points if points is None else points
        shape = ("positions",) + ("normals",) * facts.normals + ("colours",) * facts.colours
        self.fields = shape + ("parts",) * bool(facts.parts)
        number = max(facts.points, self.points)
        field = Euclidean((number, 3))
        self.space: Euclidean | Product = field if len(self.fields) == 1 else Product(dict.fromkeys(shape, field))
        self.joint: dict[str, tuple[str, ...]] = {}
        if facts.parts:
            self._parts = one_hot(facts.part_fractions, PARTS_STD)
            parts = CategoricalField((number, len(facts.parts)), self._parts, facts.parts)
            self.space = Product({**dict.fromkeys(shape, field), "parts": parts})
            self.joint = {"shape": shape, "parts": ("parts",)}
        self.conditions: tuple[Condition, ...] = text_conditions(facts.text)
        if facts.classes:
            self.conditions = (ClassCondition("label", facts.classes), *self.conditions)
        self._small = small_cloud(facts) if facts.upscale else None
        if self._small is not None:
            self.conditions = (*self.conditions, self._small)
        self.sizes = None
        self._affine = {
            "positions": (facts.centre, facts.scale),
            "normals": ((0.0, 0.0, 0.0), NORMAL_SCALE),
            "colours": (tuple(255 * mean for mean in facts.colour_mean), 255 * facts.colour_std),
        }

    def resized(self, size: str) -> "CloudCodec":
        """The codec of clouds of `size` points, a whole number up to `MOST_SAMPLED`. Raises `UserError` for others.

        States of fewer points than those of training are drawn with all of these, and decoded to the first `size` of
        them: points of a cloud have no order, so some of them are a smaller cloud. States of more points are left to
        the network (`diffcore_pointcloud.networks.PointDenoiser`).
        """
        trained, points = self.facts.points, whole_number(size)
        if points > MOST_SAMPLED:
            raise UserError(f"`size` {points:,}: a cloud can have at most {MOST_SAMPLED:,} points")
        if points > trained:
            logger.warning(
                f"the model was trained on clouds of {trained:,} points: the first {trained:,} points decide on the "
                f"shape, and the other {points - trained:,} are drawn on its surface"
            )
        return CloudCodec(self.facts, points)

    def encode(self, examples: TensorDict, draws: Draws | None = None) -> Encoded:
        """Encode P points of each pool: the first ones, or random ones if there are `draws`.

        Then the clouds are also rotated and mirrored at random, if the facts say so.
        """
        batch, points = len(examples), self.facts.points
        if draws is None:
            pool = {name: examples[name][:, :points] for name in self.fields}
        else:
            chosen = self._draw(examples, draws)
            rows = torch.arange(batch, device=chosen.device)[:, None]
            pool = {name: examples[name][rows, chosen] for name in self.fields}
        encoded = {name: self._standardised(name, values) for name, values in pool.items()}
        if draws is not None:
            matrices = self._rotations(draws)
            for name in ("positions", "normals"):
                if matrices is not None and name in encoded:
                    encoded[name] = encoded[name] @ matrices
        labels = {"label": examples["label"]} if self.facts.classes else {}
        conditions = {**labels, **text_values(self.conditions, examples, draws)}
        if self._small is not None:
            first = torch.cat([*encoded.values()], -1)[:, : self._small.coarse[0]]
            conditions[self._small.name] = self._small.drawn(first, draws)
        if len(encoded) == 1:
            return Encoded(encoded["positions"], conditions)
        return Encoded(TensorDict(encoded, batch_size=[batch]), conditions)

    def require_smaller(self, codec: "CloudCodec") -> None:
        """Raise `UserError` unless the clouds of `codec` have the points and the fields that the model enlarges."""
        assert self._small is not None
        self._small.require_like(codec.facts.model_copy(update={"points": codec.points}))

    def coarse(self, samples: Drawn) -> Tensor:
        """The small clouds as states, with their fields beside each other, `[B, M, channels]`."""
        return torch.cat([self._standardised(name, samples.decoded[name]) for name in self.fields], -1)

    def decode(self, state: State, mask: Mask = None) -> TensorDict:
        """`positions` `[B, P, 3]` float32 in the data's unit, unit `normals`, uint8 `colours`, and labels `parts`.

        A codec of fewer points than its states have decodes the first ones. The label of a point is that of the part
        whose code is nearest.
        """
        values = {"positions": state} if isinstance(state, Tensor) else dict(state.items())
        samples = {}
        if self.facts.parts:
            parts = self._parts.nearest(values.pop("parts")[:, : self.points])
            samples["parts"] = to_device(torch.tensor(self.facts.part_labels), parts.device)[parts]
        for name, value in values.items():
            mean, std = self._mean_and_std(name, value)
            samples[name] = value[:, : self.points].double() * std + mean
        samples["positions"] = samples["positions"].float()
        if self.facts.normals:
            samples["normals"] = torch.nn.functional.normalize(samples["normals"], dim=-1).float()
        if self.facts.colours:
            samples["colours"] = samples["colours"].round().clamp(0, 255).to(torch.uint8)
        return TensorDict(samples, batch_size=[len(samples["positions"])])

    def encoded_parts(self, parts: Tensor) -> Tensor:
        """The codes `[B, P, K]` of parts, indices `[B, P]` of their names."""
        return self._parts.encode(parts.long())

    def _standardised(self, name: str, values: Tensor) -> Tensor:
        """The values of a field as they are in a state."""
        if name == "parts":
            return self.encoded_parts(values)
        mean, std = self._mean_and_std(name, values)
        return ((values.double() - mean) / std).float()

    def _mean_and_std(self, name: str, like: Tensor) -> tuple[Tensor, float]:
        mean, std = self._affine[name]
        return to_device(torch.tensor(mean, dtype=torch.float64), like.device), std

    def _draw(self, examples: TensorDict, draws: Draws) -> Tensor:
        """Indices `[B, P]` of P different points of each pool; every choice has the same probability."""
        pool = examples["positions"].shape[1]
        keys = draws.uniform("points", pool)
        if "count" in examples.keys():
            keys = keys.masked_fill(torch.arange(pool, device=keys.device) >= examples["count"][:, None], -1.0)
        return keys.topk(self.facts.points, dim=1).indices

    def _rotations(self, draws: Draws) -> Tensor | None:
        """Matrices `[B, 3, 3]` for row vectors: random reflections and rotations about the upright axis, or None."""
        if not (self.facts.rotate or self.facts.mirror):
            return None
        batch, device = len(draws.samples), draws.samples.device
        matrices = torch.eye(3, device=device).repeat(batch, 1, 1)
        if self.facts.mirror:
            matrices[:, 0, 0] = 1 - 2 * (draws.uniform("mirror") < 0.5).float()
        if self.facts.rotate:
            angle = 2 * math.pi * draws.uniform("rotate")
            first, second = (2, 0) if self.facts.up == "y" else (0, 1)
            rotations = torch.eye(3, device=device).repeat(batch, 1, 1)
            rotations[:, first, first] = rotations[:, second, second] = angle.cos()
            rotations[:, first, second], rotations[:, second, first] = angle.sin(), -angle.sin()
            matrices = matrices @ rotations
        return matrices
