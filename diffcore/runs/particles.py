"""Particles in a sampling config: what they are weighted by, and which solvers can be used."""

from dataclasses import replace

from diffcore.errors import UserError
from diffcore.plugins.guidance import changes_denoiser, guided_by
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import SamplingConfig, all_levels
from diffcore.sampling.particles import Particles, steps_of
from diffcore.sampling.solvers import ddpm


def without_factors(config: SamplingConfig) -> SamplingConfig:
    """The config without the guides that have a factor: its samples have the distribution p, as particles see it."""
    return replace(config, guides=tuple(guide for guide in config.guides if guide.factor is None))


def particles_of(config: SamplingConfig) -> Particles | None:
    """The particles of a config; None if it has one for each sample, or nothing that they could be weighted by."""
    weighed = [guide for guide in config.guides if guide.factor is not None]
    factors = tuple(guide.factor for guide in weighed if guide.factor is not None)
    if config.particles == 1 or not factors:
        return None
    guide = (lambda plain: guided_by(weighed, plain)) if _steers(config) else None
    return Particles(config.particles, factors, guide, config.all_particles)


def _steers(config: SamplingConfig) -> bool:
    """Whether any guide with a factor also changes the denoiser, as a gradient does."""
    return changes_denoiser([guide for guide in config.guides if guide.factor is not None])


def require_factor(config: SamplingConfig) -> None:
    """Raise `UserError` for particles without a guide that they could be weighted by."""
    if config.particles > 1 and particles_of(config) is None:
        raise UserError(
            f"`particles` {config.particles}: nothing says which particles are better: give a `classifier`, or a guide "
            "with a factor"
        )


def with_particles(model: Model, config: SamplingConfig, solver_chosen: bool) -> SamplingConfig:
    """The config with a solver whose particles can be weighted: its own, or `ddpm` if the caller has not chosen one.

    Raises `UserError` if the caller has chosen a solver that does not fit.
    """
    return config if particles_of(config) is None else with_noise(model, config, solver_chosen)


def with_noise(model: Model, config: SamplingConfig, solver_chosen: bool) -> SamplingConfig:
    """What `with_particles` does, also without a factor so far: that of a search is made later."""
    noisy, gaussian = steps_of(config.step, model.codec.space, all_levels(model, config))
    steers = _steers(config)
    if noisy and (gaussian or not steers):
        return replace(config, may_be_fitted=False)
    if not solver_chosen:
        return replace(config, step=ddpm(), solver="ddpm", may_be_fitted=False)
    why = "adds no noise, so that equal particles would stay equal"
    if noisy:
        why = "has no steps of one evaluation with Gaussian noise, which a guide with a gradient needs"
    raise UserError(f"`particles` cannot be drawn with the solver {config.solver}, which {why}: choose ddpm")
