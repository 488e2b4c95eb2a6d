"""Frechet audio distance with the networks of fadtk: an optional metric.

`pip install diffcore-audio[fadtk]` installs the package without the weights. The metric is computed if the environment
variable `DIFFCORE_FADTK` names a model whose weights are on this machine already:

| model | rate | weights |
|---|---|---|
| `vggish` | 16 kHz | `hub/checkpoints/vggish-10086976.pth` and `hub/harritaylor_torchvggish_master` in `$TORCH_HOME` |
| `clap-laion-audio` | 48 kHz | `.model-checkpoints/630k-audioset-best.pt` in fadtk's folder, RoBERTa in `$HF_HOME` |

The weights are pickles, which can execute code when they are loaded: download them only from the sources of fadtk.
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

from diffcore.errors import UserError
from diffcore.evaluation.metrics import frechet_distance
from diffcore.plugins.output import Metric
from diffcore_audio.signals.resampling import resampled
from diffcore_audio.signals.waves import finite, mono, pcm, wav

VARIABLE = "DIFFCORE_FADTK"
"""The environment variable that names the model."""
_LARGEST_SET = 1000
"""At most so many samples and so many real sounds are compared, as these networks are slow."""


def _vggish_files(_: Path) -> list[Path]:
    hub = Path(torch.hub.get_dir())
    return [hub / "harritaylor_torchvggish_master", hub / "checkpoints" / "vggish-10086976.pth"]


def _clap_files(package: Path) -> list[Path]:
    return [package / ".model-checkpoints" / "630k-audioset-best.pt"]


_MODELS: dict[str, tuple[str, tuple[str, ...], Callable[[Path], list[Path]]]] = {
    "vggish": ("VGGishModel", (), _vggish_files),
    "clap-laion-audio": ("CLAPLaionModel", ("audio",), _clap_files),
}
"""By name: the class of fadtk, its arguments, and the files that it would otherwise download."""


def fad_metrics(samples: Tensor, real: Tensor, rate: int) -> list[Metric]:
    """The Frechet audio distance of samples to real sounds, both `[n, C, L]` (Kilgour et al. 2019).

    It is empty if the environment variable `DIFFCORE_FADTK` is not set. The embeddings are those of fadtk (Gui et al.
    2024), one per frame. Raises `UserError` if the model is unknown, or if fadtk or its weights are not installed.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return []
    model = _loaded(name)
    samples, real = samples[:_LARGEST_SET], real[:_LARGEST_SET]
    distance = frechet_distance(_embeddings(model, samples, rate), _embeddings(model, real, rate))
    meaning = f"Frechet audio distance of {len(samples)} samples and {len(real)} real sounds, {name} of fadtk"
    return [Metric("fad", distance, meaning)]


def _loaded(name: str) -> Any:
    if name not in _MODELS:
        raise UserError(f"{VARIABLE}={name} is unknown; it must be one of {', '.join(_MODELS)}")
    found = importlib.util.find_spec("fadtk")
    if found is None or found.origin is None:
        raise UserError(f"{VARIABLE}={name} needs fadtk; install it with `pip install fadtk`")
    class_name, arguments, files = _MODELS[name]
    for path in files(Path(found.origin).parent):
        if not path.exists():
            raise UserError(
                f"{VARIABLE}={name} needs {path}, which is missing; download it yourself, as diffcore does not"
            )
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    model = getattr(importlib.import_module("fadtk.model_loader"), class_name)(*arguments)
    model.load_model()
    return model


@torch.no_grad()
def _embeddings(model: Any, waves: Tensor, rate: int) -> Tensor:
    """The embeddings of all frames of all sounds, `[frames, d]`. The models read mono files of their own rate."""
    sounds = pcm(resampled(mono(finite(waves)[0].float()), rate, model.sr))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.wav"
        for sound in sounds:
            path.write_bytes(wav(sound, model.sr))
            rows.append(torch.as_tensor(model.get_embedding(model.load_wav(path))))
    return torch.cat(rows)
