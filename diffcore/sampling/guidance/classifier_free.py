"""Classifier-free guidance: predictions with and without conditions, mixed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffcore.denoising.conditions import Condition, Conditions, nulls
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.denoising.estimate import without_estimate
from diffcore.sampling.guidance.joint_batch import JointBatch, JointPass, cache_last, evaluate_jointly
from diffcore.states.level import Levels
from diffcore.states.spaces import Mask
from diffcore.states.state import State


def classifier_free(
    denoise: Denoise, conditions: Sequence[Condition], weight: float, against: Conditions | None = None
) -> Denoise:
    """Classifier-free guidance: eps = eps_u + w (eps_c - eps_u), and x0 likewise. Ho & Salimans 2022 (w = 1 + their w).

    eps_u is the prediction without conditions, eps_c the one with them; `conditions` are all conditions of the model.
    w = 0 ignores the conditions and w = 1 is the conditional model itself; both evaluate the network once. w > 1 makes
    samples follow the conditions more strongly. For other w both predictions are computed in one batch, in which a
    sample without any condition appears once.

    With `against`, values `[1, ...]` by name, eps_u is the prediction with these conditions and no others ("negative
    prompts"): w > 1 moves samples away from them, also samples without conditions.
    """
    if weight == 1:
        return denoise
    return _mixed(denoise, conditions, [([condition.name for condition in conditions], weight)], against)


def composed(denoise: Denoise, conditions: Sequence[Condition], weights: Mapping[str, float]) -> Denoise:
    """Several conditions, each with its own weight: eps = eps_u + sum_i w_i (eps_{c_i} - eps_u).

    Liu et al. 2022 (composable diffusion), eq. 11, which assumes that the conditions are independent given the sample:
    eps_{c_i} is the prediction with all other conditions null. `conditions` are all conditions of the model, `weights`
    are by name; a condition without a weight is ignored. All predictions are computed in one batch. Raises
    `ValueError` for a name that no condition of the model has.
    """
    names = {condition.name for condition in conditions}
    if unknown := weights.keys() - names:
        raise ValueError(f"no condition is called {', '.join(sorted(unknown))}; there are: {', '.join(sorted(names))}")
    return _mixed(denoise, conditions, [([name], weight) for name, weight in weights.items()])


def composed_values(
    denoise: Denoise, condition: Condition, values: Sequence[Tensor], weights: Sequence[float]
) -> Denoise:
    """Several values of one condition, such as texts: eps = eps_0 + sum_i w_i (eps_i - eps_0). Liu et al. 2022, eq. 11.

    eps_i is the prediction with the value i, `[1, ...]`, in place of that of the samples, and eps_0 that with the null
    value; the other conditions of the samples hold in all of them. All predictions are computed in one batch.
    """

    @cache_last
    def batch_for(given: Conditions) -> JointBatch:
        first = next(iter(given.values()))

        def asked(value: Tensor) -> Conditions:
            return {**given, condition.name: _for_all(value, first)}

        passes = [JointPass(asked(value), weight) for value, weight in zip(values, weights, strict=True) if weight]
        return JointBatch(asked(condition.null(1)), passes)

    def guided(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        given, estimate = without_estimate(conditions)
        if not given:
            return denoise(x, level, conditions, mask)
        return replace(evaluate_jointly(denoise, x, level, batch_for(given), mask, estimate), unguided=None)

    return guided


def _for_all(value: Tensor, like: Tensor) -> Tensor:
    """The value `[1, ...]` of a condition for each sample of `like` `[B, ...]`."""
    return value.to(like.device).expand(len(like), *value.shape[1:])


def _mixed(
    denoise: Denoise,
    model_conditions: Sequence[Condition],
    groups: Sequence[tuple[Sequence[str], float]],
    against: Conditions | None = None,
) -> Denoise:
    """D_u + sum over `groups` of weight (D_group - D_u), where D_group has only the conditions that the group names.

    D_u has no conditions, or those of `against`; then all samples differ from it.
    """
    whole = len(groups) == 1 and {*groups[0][0]} == {condition.name for condition in model_conditions}

    @cache_last
    def batch_for(values: Conditions) -> JointBatch:
        """The conditions of D_u, and a pass for each group that has a condition given in any sample."""
        first = next(iter(values.values()))
        absent = {**values, **nulls(model_conditions, len(first), first.device)}
        base = absent | {name: _for_all(value, first) for name, value in (against or {}).items()}
        passes = []
        for names, weight in groups:
            kept = [condition for condition in model_conditions if condition.name in names and condition.name in values]
            if not kept or weight == 0:
                continue
            given = torch.stack([condition.given(values[condition.name]) for condition in kept]).any(0)
            given = torch.ones_like(given) if against else given
            rows = given.nonzero()[:, 0]
            if len(rows):
                only = {**absent, **{condition.name: values[condition.name] for condition in kept}}
                passes.append(JointPass(only, weight, None if len(rows) == len(given) else rows))
        return JointBatch(base, passes)

    def guided(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        given, estimate = without_estimate(conditions)
        if not given:
            return denoise(x, level, conditions, mask)
        prediction = evaluate_jointly(denoise, x, level, batch_for(given), mask, estimate)
        return prediction if whole else replace(prediction, unguided=None)

    return guided
