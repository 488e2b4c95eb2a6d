"""A codec of clouds of which a part is known up to its place and its size."""

from collections.abc import Mapping, Sequence
from typing import Any

from tensordict import TensorDict
from torch import Tensor

from diffcore.states.spaces import Mask
from diffcore.states.state import State, fields
from diffcore_pointcloud.codec import CloudCodec


class PlacedCodec(CloudCodec):
    """Decodes clouds in the frame of a part, `known` `[M, 3]`, which their first M points are.

    A sample has these points at s p + t, with the number s and the vector t for which the sum of squared distances is
    least. Its points x become (x - t) / s, and the first M of them the known ones exactly.
    """

    def __init__(self, codec: CloudCodec, known: Tensor) -> None:
        super().__init__(codec.facts, codec.points)
        self._known = known.double()

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Everything that decides what this codec does, as values of JSON."""
        return {"placed": self._known.tolist()}

    def decode(self, state: State, mask: Mask = None) -> TensorDict:
        """The clouds as `CloudCodec` decodes them, with positions in the frame of the part."""
        samples = super().decode(state, mask)
        positions = samples["positions"].double()
        size, place = self._fitted(positions)
        moved = (positions - place[:, None]) / size[:, None, None]
        known = min(len(self._known), moved.shape[1])
        moved[:, :known] = self._known[:known].to(moved.device)
        samples["positions"] = moved.float()
        return samples

    def upright(self, state: State, mask: Mask, rows: Sequence[int]) -> tuple[State, Sequence[bool]]:
        """The samples themselves, and whether s is positive, so that the part is not turned inside out."""
        size, _ = self._fitted(next(iter(fields(state).values())).double())
        return state, (size > 0).tolist()

    def _fitted(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """s `[B]` and t `[B, 3]` of clouds `[B, P, 3]`, by least squares."""
        known = self._known.to(positions.device)
        own = positions[:, : len(known)]
        known = known[: own.shape[1]]
        from_mean, own_from_mean = known - known.mean(0), own - own.mean(1, keepdim=True)
        size = (own_from_mean * from_mean).sum((1, 2)) / from_mean.square().sum()
        return size, own.mean(1) - size[:, None] * known.mean(0)
