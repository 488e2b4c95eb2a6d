"""What a run in latents takes over from its first stage, unless it says otherwise: the data set."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffcore.errors import UserError
from diffcore.plugins.records import absolute
from diffcore.runs.consent import is_own
from diffcore.system.files import read_summed_json

logger = logging.getLogger(__name__)


def latent_run(*layers: Mapping[str, Any]) -> str | None:
    """The folder of the first stage that the last of the layers with one names, as text or in a table."""
    found = None
    for layer in layers:
        named = layer.get("latent")
        named = named.get("run") if isinstance(named, Mapping) else named
        found = named if isinstance(named, str) else found
    return found


def data_of_first_stage(run: str | None) -> dict[str, Any]:
    """The table `data` of the settings of the run in this folder, as a layer for `diffcore.runs.composing.compose`.

    Nothing is taken from a run of another user, which could name any file. Nothing either where the folder cannot be
    read; `diffcore.runs.first_stage` then says why.
    """
    if run is None:
        return {}
    try:
        content = read_summed_json(Path(absolute(run)) / "config.json")
    except (UserError, OSError, ValueError):
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        return {}
    if not is_own(content, content.pop("signature", None)):
        logger.warning(f"{run} is not a run of yours, so its data set is not taken over: name one with `data`")
        return {}
    data = content["settings"].get("data")
    return {"data": data} if isinstance(data, dict) else {}
