"""Frechet audio distance by the networks of fadtk, where a user has it and asks for it.

Nothing here needs it. `pip install diffcore-audio[fadtk]` brings the package, not the weights; metrics are there if the
environment variable `DIFFCORE_FADTK` names a model whose weights are on this machine already:

| model | rate | weights |
|---|---|---|
| `vggish` | 16 kHz | `hub/checkpoints/vggish-10086976.pth` and `hub/harritaylor_torchvggish_master` in `$TORCH_HOME` |
| `clap-laion-audio` | 48 kHz | `.model-checkpoints/630k-audioset-best.pt` in fadtk's folder, RoBERTa in `$HF_HOME` |

These files are pickles, which can execute code when they are read: take them from where fadtk would.
"""

import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchaudio.functional import resample

from diffcore.errors import UserError
from diffcore.evaluation.metrics import frechet_distance
from diffcore.plugins.output import Metric
from diffcore_audio.signals.waves import finite, mono, pcm, wav

VARIABLE = "DIFFCORE_FADTK"
_AT_MOST = 1000
"""So many sounds on either side; these networks are slow."""


def _vggish_files(_: Path) -> list[Path]:
    hub = Path(torch.hub.get_dir())
    return [hub / "harritaylor_torchvggish_master", hub / "checkpoints" / "vggish-10086976.pth"]


def _clap_files(package: Path) -> list[Path]:
    return [package / ".model-checkpoints" / "630k-audioset-best.pt"]


_MODELS: dict[str, tuple[str, tuple[str, ...], Callable[[Path], list[Path]]]] = {
    "vggish": ("VGGishModel", (), _vggish_files),
    "clap-laion-audio": ("CLAPLaionModel", ("audio",), _clap_files),
}
"""By name: fadtk's class, its arguments, and the files that it would else fetch."""


def fad_metrics(samples: Tensor, real: Tensor, rate: int) -> list[Metric]:
    """The distance of samples to real sounds, `[n, C, L]`, if a model is named; raises `UserError` if it is not there.

    Kilgour et al. 2019; embeddings are those of fadtk (Gui et al. 2024), one for each of its frames.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return []
    model = _loaded(name)
    samples, real = samples[:_AT_MOST], real[:_AT_MOST]
    distance = frechet_distance(_embeddings(model, samples, rate), _embeddings(model, real, rate))
    meaning = f"Frechet audio distance of {len(samples)} samples and {len(real)} real sounds, {name} of fadtk"
    return [Metric("fad", distance, meaning)]


def _loaded(name: str) -> Any:
    if name not in _MODELS:
        raise UserError(f"{VARIABLE}={name}: it must be one of {', '.join(_MODELS)}")
    found = importlib.util.find_spec("fadtk")
    if found is None or found.origin is None:
        raise UserError(f"{VARIABLE}={name} needs fadtk: pip install fadtk")
    kind, arguments, files = _MODELS[name]
    for path in files(Path(found.origin).parent):
        if not path.exists():
            raise UserError(f"{VARIABLE}={name}: its weights are not here, {path} is missing; diffcore fetches none")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    model = getattr(importlib.import_module("fadtk.model_loader"), kind)(*arguments)
    model.load_model()
    return model


@torch.no_grad()
def _embeddings(model: Any, waves: Tensor, rate: int) -> Tensor:
    """All frames of all sounds, `[frames, d]`. Models read files of their own rate, with one channel."""
    sounds = pcm(resample(mono(finite(waves)[0].float()), rate, model.sr))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.wav"
        for sound in sounds:
            path.write_bytes(wav(sound, model.sr))
            rows.append(torch.as_tensor(model.get_embedding(model.load_wav(path))))
    return torch.cat(rows)
