"""Pictures whose states are those of diffusers: pixels from -1 to 1."""

from dataclasses import replace
from typing import Any

from diffcore.plugins.data import Data
from diffcore_image import datasets
from diffcore_image.options import FolderOptions


def folder(options: FolderOptions) -> Data:
    """The data set `folder` of pictures with the states x = 2 pixel / 255 - 1, whatever their mean is."""
    data: Data = datasets.folder(options)
    facts: Any = data.facts
    half = (0.5,) * facts.channels
    return replace(data, facts=facts.model_copy(update={"mean": half, "std": half}))
