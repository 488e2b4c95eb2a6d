"""Clouds that are given with fewer points: the condition of a model that enlarges them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffcore.denoising.conditions.coarse_condition import CoarseSet
from diffcore.errors import UserError
from diffcore.plugins.enlarging import COARSE
from diffcore.states.state import fields
from diffcore_pointcloud.options import CloudFacts


@dataclass(frozen=True)
class SmallCloud(CoarseSet):
    """A cloud of fewer points, `[M, k]` with the fields beside each other. As text, it is a file of a cloud or a mesh.

    * `facts`: the facts of clouds of so many points.
    """

    facts: CloudFacts | None = None

    def read(self, path: str) -> Tensor:
        """The state of M random points of the cloud in a file, or of the surface of its mesh, `[1, M, k]`."""
        from diffcore_pointcloud.codec import CloudCodec  # it imports this module
        from diffcore_pointcloud.data.reader import CloudReader

        assert self.facts is not None
        reader = CloudReader(CloudCodec(self.facts), "the clouds that this model enlarges have")
        return torch.cat([*fields(reader.read(Path(path))).values()], -1)

    def require_like(self, facts: CloudFacts) -> None:
        """Raise `UserError` unless clouds with these facts are those that are enlarged."""
        assert self.facts is not None
        if (found := _words(facts)) != (wanted := _words(self.facts)):
            raise UserError(f"the model enlarges clouds of {wanted}, not {found}")


def _words(facts: CloudFacts) -> str:
    more = " and ".join(["normals"] * facts.normals + ["colours"] * facts.colours)
    return f"{facts.points} points" + (f" with {more}" if more else "")


def small_cloud(facts: CloudFacts) -> SmallCloud:
    """The condition of the facts, which have a factor."""
    channels = 3 * (1 + facts.normals + facts.colours)
    shape = (facts.points // facts.upscale, channels)
    return SmallCloud(COARSE, shape, facts.upscale_noise, facts.points, facts=facts.smaller)
