"""Denoisers: a network with a parameterisation, whose predictions can be read as x0, eps, v or score."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from diffcore.denoising.along import conditions_alone, told_in
from diffcore.denoising.conditions import Condition, Conditions, nulls
from diffcore.denoising.embedding import Conditioning
from diffcore.denoising.given import require_accepted, require_shapes
from diffcore.denoising.inputs import INPUTS, beside_each_other
from diffcore.denoising.known import clean_where_known, known_in
from diffcore.denoising.precision import computed
from diffcore.errors import UserError
from diffcore.names import Parameterisation, Precision, require_name
from diffcore.process.schedules import Schedule
from diffcore.states.categories import Categories, entrywise_expectations
from diffcore.states.form import form_difference, shapes_of
from diffcore.states.level import FieldLevels, Level, Levels, by_field, is_clean, level_of
from diffcore.states.spaces import Mask
from diffcore.states.state import State, combine, fields, first_field, from_fields, map_fields, named


@dataclass(frozen=True)
class Prediction:
    """The prediction of a denoiser for x = alpha x0 + sigma eps, which can be read as x0, eps, v or score.

    * `x`, `level`: the noisy state `[B, ...]` and its level, or the levels of its fields.
    * `output`: the predicted state, `[B, ...]`.
    * `view`: whether `output` is x0, eps or v. The other views are computed from `output` and x when they are read,
      each by a sum that is as precise as the output allows.
    * `variance`: the predicted log-variance of an ancestral step, as a fraction between its bounds, of the shape of x:
      0 is the variance of the posterior, 1 that of the forward step (Nichol & Dhariwal 2021, eq. 15). None if the
      network does not learn it.
    * `unguided`: the prediction of the same network for the same conditions without guidance, which guidance carries
      along so that `rescale` need not compute it again; None where it is not known.

    All views are affine in the output, so predictions for the same x can be mixed by mixing their outputs. At sigma = 0
    (a float), x is known and says nothing about the noise: x0 is x / alpha, and eps and v are zero.
    """

    x: State
    level: Levels
    output: State
    view: Parameterisation = "x0"
    variance: State | None = None
    unguided: "Prediction | None" = None

    @cached_property
    def x0(self) -> State:
        """E[x0 | x]. From eps: (x - sigma eps) / alpha, undefined at alpha = 0. From v: (alpha x - t sigma v) / t^2.

        Here and below, t^2 = alpha^2 + sigma^2.
        """
        if isinstance(self.level, FieldLevels):
            return self._by_field("x0")
        alpha, sigma = self.level
        if is_clean(self.level):
            return combine((1 / alpha, self.x))
        if self.view == "x0":
            return self.output
        if self.view == "eps":
            return combine((1 / alpha, self.x), (-sigma / alpha, self.output))
        total = self.level.total
        return combine((alpha / total**2, self.x), (-sigma / total, self.output))

    @cached_property
    def eps(self) -> State:
        """E[eps | x]. From x0: (x - alpha x0) / sigma. From v: (sigma x + t alpha v) / t^2."""
        if isinstance(self.level, FieldLevels):
            return self._by_field("eps")
        if is_clean(self.level):
            return map_fields(torch.zeros_like, self.x)
        alpha, sigma = self.level
        if self.view == "eps":
            return self.output
        if self.view == "x0":
            return combine((1 / sigma, self.x), (-alpha / sigma, self.output))
        total = self.level.total
        return combine((sigma / total**2, self.x), (alpha / total, self.output))

    @cached_property
    def v(self) -> State:
        """v = (alpha eps - sigma x0) / t. Salimans & Ho 2022, appendix D.

        From x0: (alpha x - t^2 x0) / (sigma t). From eps: (t^2 eps - sigma x) / (alpha t).
        """
        if isinstance(self.level, FieldLevels):
            return self._by_field("v")
        if is_clean(self.level):
            return map_fields(torch.zeros_like, self.x)
        alpha, sigma = self.level
        if self.view == "v":
            return self.output
        total = self.level.total
        if self.view == "x0":
            return combine((alpha / (sigma * total), self.x), (-total / sigma, self.output))
        return combine((-sigma / (alpha * total), self.x), (total / alpha, self.output))

    @property
    def score(self) -> State:
        """grad log p(x) = -eps / sigma, and zero for clean fields. Song et al. 2021, section 3; Vincent 2011."""
        return combine((by_field(lambda level: 0.0 if is_clean(level) else -1 / level.sigma, self.level), self.eps))

    def of_field(self, name: str) -> "Prediction":
        """The prediction for one field of the state, at its level."""
        x, output, variance = fields(self.x)[name], fields(self.output)[name], self.variance
        return Prediction(
            x, level_of(self.level, name), output, self.view, None if variance is None else fields(variance)[name]
        )

    def _by_field(self, view: Parameterisation) -> State:
        return named({name: getattr(self.of_field(name), view) for name in fields(self.x)})


def from_x0(x0: State, x: State, level: Levels) -> Prediction:
    """The prediction with the given x0. Its eps is undefined at sigma = 0."""
    return Prediction(x, level, x0, "x0")


def from_eps(eps: State, x: State, level: Levels) -> Prediction:
    """The prediction with the given eps. Its x0 is undefined at alpha = 0."""
    return Prediction(x, level, eps, "eps")


def from_v(v: State, x: State, level: Levels) -> Prediction:
    """The prediction with the given v. Its x0 and eps are sums of bounded terms, precise at both ends.

    For unit-variance data this is EDM's preconditioning with sigma_data = 1 (Karras et al. 2022, table 1), whose
    network output is -v.
    """
    return Prediction(x, level, v, "v")


def velocity(x0: State, eps: State, level: Levels) -> State:
    """v = (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2), computed from the data x0 and the noise eps."""
    of_eps = by_field(lambda each: each.alpha / each.total, level)
    of_x0 = by_field(lambda each: -each.sigma / each.total, level)
    return combine((of_eps, eps), (of_x0, x0))


def moved(prediction: Prediction, x: State, by: State) -> Prediction:
    """The prediction for `x` = alpha (x0 + `by`) + sigma eps that follows from a prediction for alpha x0 + sigma eps.

    The noise is the same, so eps stays; x0 becomes x0 + `by`, and v = (alpha eps - sigma x0) / t becomes
    v - `by` sigma / t.
    """

    def change(level: Level) -> Tensor | float:
        return {"x0": 1.0, "eps": 0.0, "v": -level.sigma / level.total}[prediction.view]

    output = combine((1.0, prediction.output), (by_field(change, prediction.level), by))
    return Prediction(x, prediction.level, output, prediction.view, prediction.variance)


def require_defined(parameterisation: Parameterisation, schedule: Schedule) -> None:
    """Raise `UserError` if x0 cannot be computed from the network's output at every level of the schedule."""
    if parameterisation == "eps" and schedule.log_snr(torch.ones(1, dtype=torch.float64)).item() == -math.inf:
        raise UserError(
            "parameterisation eps cannot be used with a schedule that ends at zero SNR, where "
            "x0 = (x - sigma eps) / alpha divides by zero: "
            "train with `parameterisation` v or x0, or give `schedule.no_zero_terminal`"
        )


class Denoise(Protocol):
    """A denoiser as guidance and sampling use it: a function, so that guidance can decorate it.

    It takes x `[B, ...]`, its level or the levels of its fields, the conditions (None: no conditions) and the mask
    `[B, N]`, True where an element exists (None: all do).
    """

    def __call__(
        self, x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None
    ) -> Prediction: ...


class Backbone(Protocol):
    """A network: takes a state of unit variance, a conditioning vector `[B, width]` and a mask, returns a like state.

    `width` is the length of the conditioning vector that the network wants. A network that also takes `tokens`, or
    channels `like_state`, names them in an attribute `accepts`, such as `("tokens",)`, and receives them as keyword
    arguments (`diffcore.denoising.inputs.Embedded`). One that names `known` receives a state of booleans, True for the
    entries that are known, or None (`diffcore.denoising.known`), and one that names `estimate` a state of the form of x
    (`diffcore.denoising.estimate`).

    A network that embeds the noise level and the conditions itself has a method `own_conditioning(conditions,
    level_fields)`, which returns a module that takes the place of `Conditioning`: from the log-SNR `[B]` and the values
    it makes the vector that the network wants, such as a time. It has the attributes `shapes`, `width` and `inputs` of
    `Conditioning`.
    """

    width: int

    def __call__(self, x: State, conditioning: Tensor, mask: Mask = None) -> State: ...


class Denoiser(nn.Module):
    """A network (backbone) that predicts x0, eps or v from the noisy state, the log-SNR and the conditions.

    The backbone receives x / sqrt(alpha^2 d^2 + sigma^2), where d is the data's standard deviation, and an embedding of
    lambda = log(alpha^2 d^2 / sigma^2) and of the conditions; never a step index, nor the scaling of the schedule. So a
    trained model works with any schedule, solver and time grid. With the parameterisation "v" this is the
    preconditioning of EDM with sigma_data = d (Karras et al. 2022, table 1).

    * `backbone`: a module with the signature of `Backbone`. If it learns variances, it returns a pair of states, output
      and variance (`Prediction.variance`).
    * `conditions`: the conditions that the model takes.
    * `parameterisation`: what the backbone's output is.
    * `data_std`: d.
    * `level_fields`: the names of all fields of the state if they may have levels of their own. The embeddings of their
      log-SNRs are then added (`Conditioning`). Without them, the network is told one log-SNR.
    * `self_conditioning`: whether the backbone receives an estimate of x0 (`diffcore.denoising.estimate`): as
      `estimate` if it accepts that, or else as more channels of `like_state`, after those of the conditions.

    A backbone may have an attribute `views`, which maps the names of some fields to a parameterisation of their own, or
    to `Categories`: the output for such a field is logits, from which x0 follows by Bayes' rule
    (`Categories.expectation`), and the backbone receives the field as `entrywise_expectations`.

    Raises `UserError` for a parameterisation that does not exist, for a condition that yields an input that the
    backbone does not accept and, when it is called, for conditions that are missing or of another shape, for levels by
    field without `level_fields`, and for an output that has not the form of the state.
    """

    def __init__(
        self,
        backbone: nn.Module,
        conditions: tuple[Condition, ...] = (),
        parameterisation: Parameterisation = "v",
        data_std: float = 1.0,
        width: int | None = None,
        level_fields: str | Sequence[str] = (),
        self_conditioning: bool = False,
    ) -> None:
        super().__init__()
        require_name(parameterisation, Parameterisation, "parameterisation")
        self.backbone = backbone
        self.self_conditioning = self_conditioning
        if self_conditioning and not {"estimate", "like_state"} & {*getattr(backbone, "accepts", ())}:
            raise UserError(
                f"`self_conditioning`: the network {type(backbone).__name__} accepts no `estimate` and no `like_state`"
            )
        width = cast(Backbone, backbone).width if width is None else width
        require_accepted(conditions, getattr(backbone, "accepts", ()), f"the network {type(backbone).__name__}")
        own = getattr(backbone, "own_conditioning", None)
        if own is None:
            self.conditioning = Conditioning(conditions, width, level_fields=level_fields)
        else:
            self.conditioning = cast(Conditioning, own(conditions, level_fields))
        self.conditions = conditions
        self.parameterisation = parameterisation
        self.data_std = data_std
        self.views: Mapping[str, Parameterisation | Categories] = getattr(backbone, "views", {})
        self.precision: Precision = "float32"

    def forward(self, x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        """The prediction for `x` `[B, ...]` at `level` (floats, or tensors `[B]`); see `Denoise` for the arguments."""
        batch, device = x.shape[0], first_field(x).device
        known, estimate, conditions = (
            known_in(conditions),
            told_in("estimate", conditions),
            conditions_alone(conditions),
        )
        if known is not None and "known" not in getattr(self.backbone, "accepts", ()):
            raise UserError(
                "this network has not learned states of which a part is known: train it with `levels.known`, or use "
                "another `method`"
            )
        if conditions is None:
            conditions = nulls(self.conditions, batch, device)
        require_shapes(self.conditioning.shapes, conditions, batch)
        expected = [each.expected(conditions[each.name]) for each in self.conditions]
        expected = [mean for mean in expected if mean is not None]
        if expected:
            mean = combine(*((1 / len(expected), each) for each in expected))
            alpha = by_field(lambda each: -each.alpha, level)
            shifted = combine((1.0, x), (alpha, mean))
            if known is not None:
                shifted = clean_where_known(shifted, combine((1.0, x), (-1.0, mean)), known)
            estimate = None if estimate is None else combine((1.0, estimate), (-1.0, mean))
            prediction = moved(self._predicted(shifted, level, conditions, mask, known, estimate), x, mean)
        else:
            prediction = self._predicted(x, level, conditions, mask, known, estimate)
        return replace(prediction, unguided=prediction)

    def _predicted(
        self,
        x: State,
        level: Levels,
        conditions: Conditions,
        mask: Mask,
        known: State | None,
        estimate: State | None,
    ) -> Prediction:
        batch, device = x.shape[0], first_field(x).device
        # x = (alpha d) (x0 / d) + sigma eps: the network works with data of unit variance.
        inner = with_data_std(level, self.data_std)
        scaled, unit = at_unit_variance(x, inner)
        inputs = entrywise_expectations(self.views, scaled, unit)
        if known is not None:
            inputs = clean_where_known(inputs, combine((1 / self.data_std, x)), known)
        conditioning, *others = self.conditioning(log_snr_of(inner, batch, device), conditions)
        context = (conditioning,) if mask is None else (conditioning, mask)
        named_inputs = {name: value for name, value in zip(INPUTS, others, strict=True) if value is not None}
        if known is not None:
            named_inputs["known"] = known
        if self.self_conditioning:
            named_inputs |= self._told_estimate(x, estimate, named_inputs.get("like_state"))
        output = computed(self.backbone, self.precision, inputs, *context, **named_inputs)
        output, variance = output if isinstance(output, tuple) else (output, None)
        self._require_form(output, variance, x)
        output = self._in_one_view(scaled, unit, output)
        prediction = Prediction(x, inner, output, self.parameterisation, variance)
        if self.data_std == 1:
            prediction = replace(prediction, level=level)
        else:
            prediction = Prediction(x, level, combine((self.data_std, prediction.x0)), "x0", variance)
        return prediction

    def _told_estimate(self, x: State, estimate: State | None, like_state: Tensor | None) -> dict[str, Any]:
        """The input of the backbone that holds the estimate; it is zero where there is none.

        `like_state` are the channels that the conditions yield.
        """
        if estimate is None:
            estimate = map_fields(torch.zeros_like, x)
        else:
            own = fields(estimate)  # in the order of the state, which networks may rely on
            estimate = from_fields({name: _given(own[name].to(f) / self.data_std) for name, f in fields(x).items()})
        if "estimate" in getattr(self.backbone, "accepts", ()):
            return {"estimate": estimate}
        return {"like_state": beside_each_other(estimate, like_state)}

    def _require_form(self, output: Any, variance: Any, x: State) -> None:
        """Raise `UserError` unless the backbone's output, and its variance if there is one, have the form of the state.

        An output `[B, 1]` would otherwise be broadcast over the state. The output for `Categories` has K logits.
        """
        expected = shapes_of(x)
        logits = {
            name: (*expected[name][:-1], len(view.codes))
            for name, view in self.views.items()
            if isinstance(view, Categories) and name in expected
        }
        parts = [("output", output, expected | logits)]
        parts += [] if variance is None else [("variance", variance, expected)]
        for what, part, wanted in parts:
            if difference := form_difference(part, wanted):
                network = type(self.backbone).__name__
                raise UserError(f"the {what} of the network {network} has not the form of the state: {difference}")

    def _in_one_view(self, scaled: State, level: Levels, output: State) -> State:
        """`output` with all fields converted from their own views to the parameterisation of the denoiser.

        `scaled` is the noisy state at unit variance, and `level` its level.
        """
        if not self.views:
            return output
        outputs = fields(output)
        for name, view in self.views.items():
            x, value, own = fields(scaled)[name], outputs[name], level_of(level, name)
            if isinstance(view, Categories):
                value, view = x if is_clean(own) else view.expectation(x, own, value), "x0"
            outputs[name] = getattr(Prediction(x, own, value, view), self.parameterisation)
        return named(outputs)


def _given(estimate: Tensor) -> Tensor:
    """The estimate, and zero where it is nan, which means that there is none."""
    return estimate.nan_to_num(0.0, math.inf, -math.inf)


def with_data_std(level: Levels, std: float) -> Levels:
    """The levels of x = (alpha d) (x0 / d) + sigma eps, where d = `std` is the data's standard deviation."""
    if isinstance(level, FieldLevels):
        return FieldLevels(by_field(lambda each: with_data_std(each, std), level))
    return Level(level.alpha * std, level.sigma)


def at_unit_variance(x: State, level: Levels) -> tuple[State, Levels]:
    """`x` and its levels, divided by sqrt(alpha^2 + sigma^2)."""
    unit = by_field(lambda each: Level(each.alpha / each.total, each.sigma / each.total), level)
    scaled = combine((by_field(lambda each: 1 / each.total, level), x))
    return scaled, FieldLevels(unit) if isinstance(level, FieldLevels) else unit


def log_snr_of(level: Levels, batch: int, device: torch.device) -> Tensor | dict[str, Tensor]:
    """The log-SNR of a level as networks receive it, float32 `[batch]`; for levels by field, by the name of the field.

    A log-SNR that is a float is put into a tensor on the device.
    """
    if isinstance(level, FieldLevels):
        return by_field(lambda each: log_snr_of(each, batch, device), level)
    log_snr = level.log_snr
    if not isinstance(log_snr, Tensor):  # `full` does not wait for the device, unlike copying a scalar to it
        log_snr = torch.full((batch,), log_snr, device=device)
    return log_snr.float()
