"""The denoiser of a run as a function of the noisy state, its log-SNR, the conditions and the mask.

The state is on the variance-preserving scale, x = alpha x0 + sigma eps with alpha^2 = sigmoid(lambda) and
sigma^2 = sigmoid(-lambda), where lambda is the log-SNR. A denoiser depends on x / sqrt(alpha^2 + sigma^2) and lambda
alone, so a state on any other scale is divided by that first.
"""

from typing import Any

import torch
from torch import Tensor, nn

from diffcore.denoising.conditions import Condition, Conditions, ScalarCondition
from diffcore.denoising.conditions.coarse_condition import CoarseCondition
from diffcore.denoising.denoiser import Denoiser
from diffcore.denoising.text import TextCondition
from diffcore.interop.description import described
from diffcore.interop.function import ELEMENTS, Function, NamedInputs, Tensors, Value, argument_names
from diffcore.process.schedules.schedule import variance_preserving
from diffcore.runs.loading import LoadedRun
from diffcore.runs.model import Model, level_fields
from diffcore.states.categories import Categories
from diffcore.states.level import FieldLevels, Level, Levels
from diffcore.states.spaces import Mask, Space, SymmetricPairs, Whole, space_of
from diffcore.states.state import State, fields, from_fields

LOG_SNR, MASK = "log_snr", "mask"


def denoiser_function(loaded: LoadedRun, facts: dict[str, Any]) -> Function:
    """The function of the denoiser of a run, whose data have these facts. Raises `UserError` if it draws no samples.

    Its inputs are the fields of the state (`x` where it is one tensor), the log-SNR, one for each field where they have
    levels of their own, the conditions by their names, and the mask where elements may be absent. Its outputs are, for
    each field, `x0` and `eps`; and, where the network has them, `variance`, the fraction of
    `diffcore.denoising.denoiser.Prediction`, and `logits` of categories.
    """
    model, denoiser = loaded.model, loaded.model.denoiser
    space, names = model.codec.space, _Names(model, level_fields(model.codec, loaded.settings))
    shapes = {name: sample_shape(model.codec, name) for name in names.fields}
    inputs = [Value(names.fields[name], shape, torch.float32, _noisy(name)) for name, shape in shapes.items()]
    inputs += [Value(given, (), torch.float32, _level(name)) for name, given in names.levels.items()]
    nulls = {condition.name: condition.null(1) for condition in model.codec.conditions}
    inputs += [
        Value(names.conditions[name], tuple(null.shape[1:]), null.dtype, f"the condition {name}")
        for name, null in nulls.items()
    ]
    if names.mask:
        inputs.append(
            Value(MASK, (ELEMENTS,), torch.bool, "True where an element exists; the first ones of each sample")
        )
    sized = any(ELEMENTS in value.shape for value in inputs)

    def examples(batch: int, elements: int) -> dict[str, Tensor]:
        return _examples(model, names, batch, elements)

    def eager(given: Tensors) -> dict[str, Tensor]:
        prediction = denoiser(*_arguments(names, given, variance_preserving))
        return _outputs(names, prediction, {})

    def scales(given: Tensors) -> dict[str, Tensor]:
        """x = alpha x0 + sigma eps: the parts of x that x0 and eps are."""
        found: dict[str, Tensor] = {}
        for name in names.fields:
            level = variance_preserving(given[names.levels[name if name in names.levels else ""]].double())
            found |= {names.output("x0", name): level.alpha, names.output("eps", name): level.sigma}
        return found

    return Function(
        NamedInputs([value.name for value in inputs], nn.ModuleDict({"denoiser": denoiser}), _Call(names)),
        tuple(inputs),
        examples,
        eager,
        elements=number_of_elements(space) if sized else 0,
        least=least_elements(model.codec) if sized else 0,
        scales=scales,
        description=described(loaded, facts, names.conditions, names.fields, names.levels),
    )


class _Names:
    """The names of the inputs and outputs."""

    def __init__(self, model: Model, levels: tuple[str, ...]) -> None:
        all_fields = [*fields(model.codec.space.empty(1))]
        self.mask = model.codec.sizes is not None
        self.fields = {"": "x"} if all_fields == [""] else argument_names(all_fields, {LOG_SNR, MASK})
        self.levels = {name: f"{LOG_SNR}_{self.fields[name]}" for name in levels} or {"": LOG_SNR}
        taken = {*self.fields.values(), *self.levels.values(), MASK}
        self.conditions = argument_names([condition.name for condition in model.codec.conditions], taken)
        self.by_field = bool(levels)

    def output(self, kind: str, field: str) -> str:
        """The name of an output: `x0`, or `x0_positions` for a field of that name."""
        return f"{kind}_{self.fields[field]}" if field else kind


class _Call:
    """What the exported module computes."""

    def __init__(self, names: _Names) -> None:
        self.names = names

    def __call__(self, parts: Any, given: Tensors) -> dict[str, Tensor]:
        denoiser: Denoiser = parts["denoiser"]
        kept: dict[str, Any] = {}
        # The logits of categories, which the denoiser turns into x0, are what its backbone returns.
        hook = denoiser.backbone.register_forward_hook(lambda module, inputs, output: kept.update(output=output))
        try:
            prediction = denoiser(*_arguments(self.names, given, scales_of))
        finally:
            hook.remove()
        output = kept["output"][0] if isinstance(kept["output"], tuple) else kept["output"]
        logits = [name for name, view in denoiser.views.items() if isinstance(view, Categories)]
        return _outputs(self.names, prediction, {name: fields(output)[name] for name in logits})


def scales_of(log_snr: Tensor) -> Level:
    """alpha and sigma, `variance_preserving` written with exponentials.

    The sigmoid of ONNX Runtime has an error that is not small beside its value where that is small: 4e-5 of it at -6.
    """
    return Level((1 / (1 + (-log_snr).exp())).sqrt(), (1 / (1 + log_snr.exp())).sqrt())


def _arguments(names: _Names, given: Tensors, scales: Any) -> tuple[State, Levels, Conditions, Tensor | None]:
    """The arguments of the denoiser for named inputs."""
    x = from_fields({field: given[name] for field, name in names.fields.items()})
    levels = {field: scales(given[name]) for field, name in names.levels.items()}
    conditions = {condition: given[name] for condition, name in names.conditions.items()}
    return x, FieldLevels(levels) if names.by_field else levels[""], conditions, given.get(MASK)


def _outputs(names: _Names, prediction: Any, logits: Tensors) -> dict[str, Tensor]:
    parts: dict[str, Any] = {"x0": fields(prediction.x0), "eps": fields(prediction.eps)}
    if prediction.variance is not None:
        parts["variance"] = fields(prediction.variance)
    parts["logits"] = logits
    return {names.output(kind, field): value for kind, each in parts.items() for field, value in each.items()}


def sample_shape(codec: Any, name: str) -> tuple[int | str, ...]:
    """The shape of the field of a state, with `ELEMENTS` for the axes of a set that may have any length."""
    space = space_of(codec.space, name)
    shape: list[int | str] = [*fields(codec.space.empty(1))[name].shape[1:]]
    if codec.sizes is None and not hasattr(codec, "resized"):
        return tuple(shape)
    for axis in _element_axes(space, len(shape)):
        shape[axis] = ELEMENTS
    return tuple(shape)


def _element_axes(space: Space, axes: int) -> tuple[int, ...]:
    if isinstance(space, Whole):
        return ()
    return (0, 1) if isinstance(space, SymmetricPairs) else (0,) if axes == 2 else ()


def number_of_elements(space: Space) -> int:
    """The number of elements of the sets of training."""
    each = fields(space.empty(1))
    return next(value.shape[1] for name, value in each.items() if _element_axes(space_of(space, name), value.ndim - 1))


def least_elements(codec: Any) -> int:
    """The smallest number of elements of a set that a network takes.

    Where all elements always exist, fewer than those of training are drawn as a part of these.
    """
    return number_of_elements(codec.space) if codec.sizes is None else 3


def example_mask(batch: int, elements: int) -> Tensor:
    """Masks of sets of which at least half of the elements exist."""
    generator = torch.Generator().manual_seed(batch)
    sizes = torch.randint(max(1, elements // 2), elements + 1, (batch, 1), generator=generator)
    return torch.arange(elements) < sizes


def example_noise(space: Space, batch: int, elements: int, mask: Mask = None) -> State:
    """Noise of the space, of sets of so many elements; 0 stands for those of training."""

    def normal(name: str, like: Tensor) -> Tensor:
        axes = _element_axes(space_of(space, name), like.ndim - 1) if elements else ()
        shape = [elements if axis - 1 in axes else side for axis, side in enumerate(like.shape)]
        return torch.randn(shape, generator=generator)

    generator = torch.Generator().manual_seed(batch)
    like = fields(space.empty(batch))
    return space.noise(from_fields({name: normal(name, value) for name, value in like.items()}), mask)


def _examples(model: Model, names: _Names, batch: int, elements: int) -> dict[str, Tensor]:
    """States of noise, at levels from noise to data, with conditions of which the first is null."""
    generator = torch.Generator().manual_seed(batch)
    mask = example_mask(batch, elements) if names.mask else None
    noise = fields(example_noise(model.codec.space, batch, elements, mask))
    found = {names.fields[name]: value for name, value in noise.items()}
    for number, name in enumerate(names.levels.values()):
        found[name] = torch.linspace(-7, 7, batch + 1)[1:] - 2 - number
    for condition in model.codec.conditions:
        value, null = _typical(condition, batch, generator), condition.null(batch)
        found[names.conditions[condition.name]] = torch.cat([null[:1], value[1:]]) if batch > 1 else value
    if mask is not None:
        found[MASK] = mask
    return found


def _typical(condition: Condition, batch: int, generator: torch.Generator) -> Tensor:
    """Values of a condition that are not null."""
    if isinstance(condition, ScalarCondition):
        return condition.mean + condition.std * torch.randn(batch, generator=generator)
    if isinstance(condition, TextCondition):
        length, largest = condition.encoder.length, condition.encoder.largest
        ids = torch.randint(1, largest + 1, (batch, length), generator=generator)
        lengths = torch.randint(1, length + 1, (batch, 1), generator=generator)
        return ids.where(torch.arange(length) < lengths, 0)
    if isinstance(condition, CoarseCondition):
        return condition.values(torch.randn(batch, *condition.coarse, generator=generator), 0.1)
    return condition.examples(batch)


def _noisy(name: str) -> str:
    return f"the noisy field {name}" if name else "the noisy state"


def _level(name: str) -> str:
    return f"log(alpha^2 / sigma^2) of the field {name}" if name else "log(alpha^2 / sigma^2) of the state"
