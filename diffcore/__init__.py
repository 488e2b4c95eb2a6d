"""A modality-agnostic diffusion library: train a model of a kind of data, or bring a tensor and a network of your own.

    import diffcore as dc

    run = dc.train(MODALITY, data=DATA_SET, train={"steps": 4500})
    run.sample(16, label=CLASS, guidance=1.5, seed=0).save(FOLDER)

Everything here is imported when it is first used, so `import diffcore` is quick and does not import torch.
"""

import getpass
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffcore.api.judging import judge as judge
    from diffcore.api.run import Run as Run
    from diffcore.api.run import load as load
    from diffcore.api.tensors import denoising_loss as denoising_loss
    from diffcore.api.tensors import log_likelihood as log_likelihood
    from diffcore.api.tensors import sample as sample
    from diffcore.api.training import train as train
    from diffcore.denoising.conditions import ClassCondition as ClassCondition
    from diffcore.denoising.conditions import ScalarCondition as ScalarCondition
    from diffcore.denoising.denoiser import Denoiser as Denoiser
    from diffcore.denoising.denoiser import Prediction as Prediction
    from diffcore.errors import UserError as UserError
    from diffcore.plugins.output import Metric as Metric
    from diffcore.process import schedules as schedules
    from diffcore.runs.samples import Samples as Samples
    from diffcore.sampling import guidance as guidance
    from diffcore.sampling import solvers as solvers
    from diffcore.sampling.inverse.editing import given_fields as given_fields
    from diffcore.sampling.inverse.editing import inpainting as inpainting
    from diffcore.sampling.inverse.editing import upscaling as upscaling
    from diffcore.sampling.inverse.strength import varying as varying
    from diffcore.states import spaces as spaces
    from diffcore.states.level import Level as Level

_WHERE = {
    "ClassCondition": "denoising.conditions",
    "Denoiser": "denoising.denoiser",
    "Level": "states.level",
    "Metric": "plugins.output",
    "Prediction": "denoising.denoiser",
    "Run": "api.run",
    "Samples": "runs.samples",
    "ScalarCondition": "denoising.conditions",
    "UserError": "errors",
    "denoising_loss": "api.tensors",
    "given_fields": "sampling.inverse.editing",
    "guidance": "sampling",
    "inpainting": "sampling.inverse.editing",
    "judge": "api.judging",
    "load": "api.run",
    "log_likelihood": "api.tensors",
    "sample": "api.tensors",
    "schedules": "process",
    "solvers": "sampling",
    "spaces": "states",
    "train": "api.training",
    "upscaling": "sampling.inverse.editing",
    "varying": "sampling.inverse.strength",
}
"""The module of each public name; modules are names of the package that they lie in."""

__all__ = [*sorted(_WHERE)]


def _name_the_user() -> None:
    """Give a user who has no name, as in `docker run --user 1042`, the number as a name.

    The compiler of PyTorch, which its optimisers and tensordict import, names a folder after the user and otherwise
    raises an exception. Where users have names, nothing changes.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ["USER"] = str(os.getuid())


_name_the_user()


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package = import_module(f"{__name__}.{_WHERE[name]}")
    if name in ("guidance", "schedules", "solvers", "spaces"):
        return import_module(f"{package.__name__}.{name}")
    return getattr(package, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
