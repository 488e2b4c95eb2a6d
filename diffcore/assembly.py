"""Putting a run's parts together out of its settings."""

from dataclasses import dataclass
from typing import Any

import torch

from diffcore.checkpoints import EMA, read_tensors
from diffcore.components import Modality
from diffcore.config import Grid, RunSettings, SampleSettings, parts
from diffcore.data import Codec, Data
from diffcore.denoiser import Denoiser, require_defined
from diffcore.errors import UserError
from diffcore.noise import seed_of
from diffcore.registry import Registry, choose
from diffcore.schedules import Schedule
from diffcore.solvers import Step


@dataclass(frozen=True)
class Recipe:
    """How to draw: a solver's step, the number of steps and their grid, and the weight of guidance."""

    step: Step
    steps: int = 20
    grid: Grid = "karras"
    guidance: float = 1.0
    batch_size: int = 250


@dataclass(frozen=True)
class Model:
    """What sampling needs: a denoiser, the schedule it was trained with, and the codec."""

    modality: Modality
    codec: Codec
    denoiser: Denoiser
    schedule: Schedule
    device: torch.device


def device_for(asked: str) -> torch.device:
    """`auto` takes a GPU where there is one; a GPU that was asked for must be there."""
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise UserError("--device cuda: PyTorch finds no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if asked != "cpu" and available else "cpu")


def build_data(settings: RunSettings, registry: Registry) -> Data:
    """Load the data set that the settings name."""
    return _build(settings, "data", registry)


def build_model(settings: RunSettings, facts: Any, registry: Registry) -> Model:
    """A model with the initial weights that the seed decides.

    Raises `UserError` where the parameterisation is not defined all along the schedule.
    """
    schedule = _build(settings, "schedule", registry)
    require_defined(settings.parameterisation, schedule)
    modality = registry.modality(settings.modality)
    codec = modality.codec(facts)
    device = device_for(settings.device)
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(settings.seed, "weights"))
        backbone = _build(settings, "denoiser", registry, codec.space)
        denoiser = Denoiser(backbone, codec.conditions, settings.parameterisation)
    return Model(modality, codec, denoiser.to(device), schedule, device)


def build_recipe(sampling: SampleSettings, registry: Registry, step: Step | None = None) -> Recipe:
    """How the settings say samples are drawn; `step` is a solver that is made already."""
    if step is None:
        solver = registry.solver(sampling.solver)
        step = solver.build(solver.options())
    return Recipe(step, sampling.steps, sampling.grid, sampling.guidance, sampling.batch_size)


def load_weights(model: Model, checkpoint: Any, file: str = EMA) -> None:
    """Put a checkpoint's weights into the model's denoiser."""
    try:
        model.denoiser.load_state_dict(read_tensors(checkpoint, file))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{checkpoint / file} does not fit the network of config.json: {reason}") from None


def _build(settings: RunSettings, kind: str, registry: Registry, *context: Any) -> Any:
    """The part of that kind, made by its component from its own options."""
    named = getattr(settings, kind)
    component = choose(parts(registry.modality(settings.modality), registry)[kind], named.name, kind)
    return component.build(component.options(**named.model_dump(exclude={"name"})), *context)
