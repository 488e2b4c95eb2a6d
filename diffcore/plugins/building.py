"""The one place where the builders of plugins are called, and where what they return is checked.

A builder that forgets `return`, or returns something else than its kind of part, is reported in one line that names it.
Without this, None in place of a solver would mean the default solver.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy
from torch import nn

from diffcore.denoising.text import TextEncoder
from diffcore.errors import UserError
from diffcore.plugins.contract import Contract
from diffcore.plugins.data import Data
from diffcore.plugins.guidance import Guidance
from diffcore.plugins.output import Metric
from diffcore.plugins.records import WORDS, Component, Modality, NoOptions, Settings
from diffcore.states.global_random import seeded
from diffcore.system.files import is_number

Complaint = Callable[[Any], str | None]
"""What is wrong with a part, in words that follow "it is" or "it has"; None if nothing is."""


def build(kind: str, component: Component, options: Settings, *context: Any) -> Any:
    """The part that `component.build(options, *context)` makes, checked.

    `kind` is a key of `PARTS`: "data", "denoiser", "classifier", "schedule", "solver", "guide", "metric", "logger",
    "task", or another kind of network, which is then any module.
    The functions that metrics and guidance consist of are checked again whenever they are called. A data set is built
    with seeded global random generators (`seeded_globally`). Raises `UserError` if it is not such a part.
    """
    what = f"the {WORDS.get(kind, kind)} {component.name!r}"
    if kind == "data":
        with seeded_globally():
            part = component.build(options, *context)
    else:
        part = component.build(options, *context)
    require_part(kind, part, what, built=True)
    if kind == "guide":
        function = part.decorate if isinstance(part, Guidance) else part
        checked = _checked_calls(function, what, "a denoiser", lambda found: None if callable(found) else _kind(found))
        return replace(part, decorate=checked) if isinstance(part, Guidance) else checked
    if kind == "metric":
        return _checked_calls(part, what, "a list of diffcore.plugins.output.Metric", _not_metrics)
    return part


def part_of(modality: Modality, kind: str, *context: Any) -> Any:
    """The part of a modality that its function `kind` makes: "codec", "writer", "evaluator", "reader" or "contract".

    Where the context has a codec of latents, the function receives the codec of the samples behind it. A writer that
    has options (`Modality.writing`) receives those in the context, or their defaults. Raises `UserError` if the
    function returns something else. An evaluator may be None, if the data allow none.
    """
    if kind == "writer" and modality.writing is not NoOptions and len(context) < 2:
        context = (*context, modality.writing())
    part = getattr(modality, kind)(*map(of_samples, context))
    if kind == "evaluator" and part is None:
        return None
    require_part(kind, part, f"the {kind} of the modality {modality.name!r}", built=True)
    return part


def of_samples(codec: Any) -> Any:
    """The codec of the samples if `codec` is one of latents; anything else is returned unchanged."""
    return getattr(codec, "of_samples", codec)


def require_part(kind: str, part: Any, what: str, built: bool = False) -> None:
    """Raise `UserError` unless `part` is a part of that kind.

    `what` names it in the message, and `built` is whether a builder made it or a caller passed it.
    """
    wanted, complain = PARTS.get(kind, A_MODULE)
    if complaint := complain(part):
        told = f"its builder must return {wanted}, but returned" if built else f"it must be {wanted}, but it is"
        forgot = "; was `return` forgotten?" if built and part is None else ""
        raise UserError(f"{what} cannot be used: {told} {complaint}{forgot}")


def require_metrics(found: Any, name: str) -> None:
    """Raise `UserError` unless `found` is a list of metrics; `name` is that of the metric that returned it."""
    if complaint := _not_metrics(found):
        raise UserError(f"the metric {name} must return a list of Metric, but returned {complaint}")


@contextmanager
def seeded_globally(seed: int = 0) -> Iterator[None]:
    """Seed the global random generators of Python, NumPy and PyTorch's CPU, and restore their states at the end.

    A data set that draws from them is then the same in every process, so a run can be resumed and evaluated. Generators
    of a data set's own are the better way.
    """
    states = random.getstate(), numpy.random.get_state()
    with seeded(seed):
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            numpy.random.set_state(states[1])


def _kind(part: Any) -> str:
    """What something is, for messages."""
    if part is None:
        return "None"
    return f"the class {part.__name__}" if isinstance(part, type) else f"a {type(part).__name__}"


def _with(*names: str, call: bool = False) -> Complaint:
    """The complaint about parts that lack an attribute, or that cannot be called."""

    def complain(part: Any) -> str | None:
        lacking = [name for name in names if not hasattr(part, name)]
        if part is None or isinstance(part, type) or (call and not callable(part)):
            return _kind(part)
        return f"{_kind(part)} without {', '.join(lacking)}" if lacking else None

    return complain


def _not_a_function(part: Any) -> str | None:
    return None if callable(part) and not isinstance(part, type) else _kind(part)


def _not_a_guide(part: Any) -> str | None:
    return None if isinstance(part, Guidance) else _not_a_function(part)


def _not_a_text_encoder(part: Any) -> str | None:
    return None if isinstance(part, TextEncoder) else _kind(part)


def _not_a_network(part: Any) -> str | None:
    if not isinstance(part, nn.Module):
        return _kind(part)
    width = getattr(part, "width", None)
    if isinstance(width, int) and not isinstance(width, bool) and width > 0:
        return None
    return f"{_kind(part)} whose `width` is {width!r}"


def _not_data(part: Any) -> str | None:
    if not isinstance(part, Data):
        return _kind(part)
    if not isinstance(part.facts, Settings):
        return f"a Data whose facts are {_kind(part.facts)}"
    for name in ("examples", "held_out", "asked"):
        value = getattr(part, name)
        if value is None and name != "examples":
            continue
        if not hasattr(value, "batch_size") or len(value.batch_size) != 1:
            batched = f" of batch size {[*value.batch_size]}" if hasattr(value, "batch_size") else ""
            return f"a Data whose {name} are {_kind(value)}{batched}, not a TensorDict of batch size [N]"
    return None


def _not_metrics(part: Any) -> str | None:
    if not isinstance(part, list | tuple):
        return _kind(part)
    wrong = next((each for each in part if not isinstance(each, Metric)), None)
    if wrong is not None or None in part:
        return f"a list with {_kind(wrong)} in it"
    return next((complaint for each in part if (complaint := _not_a_metric(each))), None)


def _not_a_metric(metric: Metric) -> str | None:
    if not isinstance(metric.name, str) or not isinstance(metric.meaning, str):
        return f"a metric with the name {metric.name!r:.50} and the meaning {metric.meaning!r:.50}, not texts"
    value = metric.value
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and is_number(value)):
        return None
    return f"a metric {metric.name!r:.50} whose value is {_kind(value)}, not a float"


def _not_a_writer(part: Any) -> str | None:
    if complaint := _with("each", "together", "html", "endings")(part):
        return complaint
    endings = part.endings
    if isinstance(endings, tuple | list) and endings and all(isinstance(e, str) and e[:1] == "." for e in endings):
        return None
    return f"{_kind(part)} whose `endings` are {endings!r}, not such as ('.png',)"


def _not_a_reader(part: Any) -> str | None:
    names = ("read", "read_sized", "read_missing", "read_part", "read_gap", "read_coarse", "read_samples", "read_side")
    return None if any(hasattr(part, name) for name in names) else f"{_kind(part)} without any of {', '.join(names)}"


def _not_a_contract(part: Any) -> str | None:
    return None if isinstance(part, Contract) else _kind(part)


def _checked_calls(function: Callable[..., Any], what: str, wanted: str, complain: Complaint) -> Callable[..., Any]:
    """`function`, whose results are checked."""

    def call(*arguments: Any) -> Any:
        found = function(*arguments)
        if complaint := complain(found):
            raise UserError(f"{what} must return {wanted} when it is called, but returned {complaint}")
        return found

    return call


A_MODULE: tuple[str, Complaint] = (
    "a torch.nn.Module",
    lambda part: None if isinstance(part, nn.Module) else _kind(part),
)
"""What the builders of tasks return, and those of networks that are no denoisers or classifiers."""

PARTS: Mapping[str, tuple[str, Complaint]] = {
    "data": ("a diffcore.plugins.data.Data", _not_data),
    "denoiser": ("a torch.nn.Module with the whole number `width`", _not_a_network),
    "classifier": ("a torch.nn.Module with the whole number `width`", _not_a_network),
    "schedule": ("a schedule with log_snr, time and level", _with("log_snr", "time", "level")),
    "solver": ("a function step(evaluate, x, move)", _not_a_function),
    "guide": ("a function that takes a denoiser and returns one", _not_a_guide),
    "metric": ("a function of samples and conditions", _not_a_function),
    "task": A_MODULE,
    "text": ("a diffcore.denoising.text.TextEncoder", _not_a_text_encoder),
    "logger": ("a logger with row, picture, metrics and close", _with("row", "picture", "metrics", "close")),
    "codec": (
        "a codec with space, conditions, sizes, encode and decode",
        _with("space", "conditions", "sizes", "encode", "decode"),
    ),
    "writer": ("a writer with each, together, html and endings", _not_a_writer),
    "evaluator": ("a function of samples and conditions, or None", _not_a_function),
    "reader": ("a reader of files", _not_a_reader),
    "scorer": (
        "a scorer with columns, more, identity, require and score",
        _with("columns", "more", "identity", "require", "score"),
    ),
    "contract": ("a diffcore.plugins.contract.Contract", _not_a_contract),
}
"""For each kind of part, what its builder must return, in words and as a check."""
