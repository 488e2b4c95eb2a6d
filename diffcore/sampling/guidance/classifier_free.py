"""Classifier-free guidance: the network compared with itself, told less."""

from collections.abc import Mapping, Sequence

import torch

from diffcore.denoising.conditions import Condition, Conditions, nulls
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.sampling.guidance.joint_batch import Pass, remembered, together
from diffcore.states.level import Level
from diffcore.states.spaces import Mask
from diffcore.states.state import State


def classifier_free(denoise: Denoise, known: Sequence[Condition], weight: float) -> Denoise:
    """Extrapolate from the unconditional prediction: eps = eps_u + w (eps_c - eps_u), and x0 likewise.

    Ho & Salimans 2022, with w = 1 + their w. `known` are all conditions of the model. w = 0 ignores what is given,
    w = 1 is the conditional model itself (either runs the network once), w > 1 sharpens. For other w both passes go
    through the network as one batch, in which the samples that are asked for nothing are once.
    """
    if weight == 1:
        return denoise
    return _compared(denoise, known, [([condition.name for condition in known], weight)])


def composed(denoise: Denoise, known: Sequence[Condition], weights: Mapping[str, float]) -> Denoise:
    """Several conditions, each with a weight of its own: eps = eps_u + sum_i w_i (eps_{c_i} - eps_u).

    Liu et al. 2022 (composable diffusion), eq. 11: the conditions are taken as independent given the sample, so each
    has a pass in which the others are null. `weights` are by name; a condition that is not named is ignored. All
    passes are one batch. Raises `ValueError` for a name that no condition of the model has.
    """
    names = {condition.name for condition in known}
    if unknown := weights.keys() - names:
        raise ValueError(f"no condition is called {', '.join(sorted(unknown))}; there are: {', '.join(sorted(names))}")
    return _compared(denoise, known, [([name], weight) for name, weight in weights.items()])


def _compared(denoise: Denoise, known: Sequence[Condition], groups: Sequence[tuple[Sequence[str], float]]) -> Denoise:
    """The weighted differences that each group of conditions makes, together, to the prediction without any."""

    @remembered
    def planned(conditions: Conditions) -> tuple[Conditions, list[Pass]]:
        value = next(iter(conditions.values()))
        absent = {**conditions, **nulls(known, len(value), value.device)}
        passes = []
        for names, weight in groups:
            kept = [condition for condition in known if condition.name in names and condition.name in conditions]
            if not kept or weight == 0:
                continue
            told = torch.stack([condition.given(conditions[condition.name]) for condition in kept]).any(0)
            rows = told.nonzero()[:, 0]
            if len(rows):
                only = {**absent, **{condition.name: conditions[condition.name] for condition in kept}}
                passes.append(Pass(only, weight, None if len(rows) == len(told) else rows))
        return absent, passes

    def guided(x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        if not conditions:
            return denoise(x, level, conditions, mask)
        absent, passes = planned(conditions)
        return together(denoise, x, level, absent, passes, mask)

    return guided
