"""The checks that every plugin of a kind of data is held to, as data: `CHECKS`.

Each is a function of a `Subject`. Networks are looked at with random numbers where weights begin at zero
(`Subject.awake`), as one that says nothing yet can break no rule.
"""

import copy
import json
import math
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w
import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import nulls
from diffcore.denoising.losses import denoising_loss
from diffcore.errors import UserError
from diffcore.plugins.records import Settings
from diffcore.runs.checkpoints import EMA, MODEL, TRAINING, checkpoints, find_checkpoint, read_tensors
from diffcore.runs.folder import Run, read_log
from diffcore.runs.generation import generate
from diffcore.runs.model import Model, build_data, load_weights
from diffcore.runs.sampling_config import sampling_config
from diffcore.runs.settings import RunSettings, compose, validate
from diffcore.states.noise import generator_for
from diffcore.states.spaces import Product, Space, SymmetricPairs
from diffcore.states.state import State, fields, map_fields
from diffcore.tasks.objective import step_loss
from diffcore.testing.subject import BATCH, Noisy, Subject, batch_of, named, normal, place_of, relative
from diffcore.training.loop import Callbacks, train

ROUNDING = 1e-4
"""How far results may differ that are equal but for the order of sums, relative to the largest entry."""


@dataclass(frozen=True)
class Finding:
    """What a check found: whether it holds, what was measured, what was expected, and where to look."""

    holds: bool
    measured: str
    expected: str
    where: str = ""


class NothingToCheckError(Exception):
    """Raised by a check that has nothing to look at, with the reason."""


@dataclass(frozen=True)
class Check:
    """A rule for plugins: its name, what it holds them to, and how to find out."""

    name: str
    summary: str
    look: Callable[[Subject], Finding]


def all_of(*findings: Finding) -> Finding:
    """The first that does not hold; where all do, what was measured in all of them."""
    for finding in findings:
        if not finding.holds:
            return finding
    measured, expected = ({getattr(f, part): None for f in findings} for part in ("measured", "expected"))
    return Finding(True, "; ".join(measured), "; ".join(expected), findings[0].where)


# What the plugin is made of


def builds(subject: Subject) -> Finding:
    settings, contract = subject.settings, subject.contract
    unknown = [name for name in contract.expected_failures if name not in {check.name for check in CHECKS}]
    network = subject.model.denoiser
    if not len(subject.data.examples):
        return Finding(False, "no training example", "some", place_of(subject.denoiser.build))
    return Finding(
        not unknown,
        f"expected failures of checks that do not exist: {named(unknown)}"
        if unknown
        else f"{len(subject.data.examples)} examples of {settings.data.name}, "  # type: ignore[attr-defined]
        f"{sum(p.numel() for p in network.parameters())} parameters of {subject.denoiser.name}",
        "names of checks" if unknown else "data, codec and network of the preset default",
        "expected_failures of the modality's contract" if unknown else place_of(network.backbone),
    )


def imports_light(subject: Subject) -> Finding:
    module = _entry_module(subject)
    heavy = sorted({"torch", *(name.partition(".")[0] for name in subject.modality.requires)})
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import {module}; "
        f"print(' '.join(name for name in {heavy!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        return Finding(False, f"import {module} ends with: {last}", "an import that succeeds by itself", module)
    found = done.stdout.split()
    return Finding(
        not found,
        f"import {module} imports {', '.join(found) or 'nothing heavy'}",
        f"none of {', '.join(heavy)}: import them in the functions that builders name (diffcore.plugins.records.lazy)",
        f"{module}; python -X importtime -c 'import {module}' shows who imports what",
    )


def _entry_module(subject: Subject) -> str:
    """The module whose hook offers the modality."""
    for plugin in subject.registry.plugins.get_plugins():
        hook = getattr(plugin, "diffcore_modalities", None)
        offers = hook is not None and any(record.name == subject.modality.name for record in hook())
        if offers and (name := getattr(plugin, "__name__", None)):
            return name
    raise NothingToCheckError("no entry point offers this modality")


def configuration_round_trip(subject: Subject) -> Finding:
    registry, modality = subject.registry, subject.modality
    findings = []
    for preset in modality.presets:
        try:
            settings = compose(registry, modality.name, preset)
        except UserError as error:
            return Finding(False, str(error), "values that the options take", f"the preset {preset!r}")
        findings.append(_survives(subject, settings, f"the preset {preset!r}"))
    findings.append(_survives(subject, subject.settings, "the small options of the parts"))
    facts = subject.data.facts
    kept = validate(modality.facts, json.loads(json.dumps(facts.model_dump(mode="json"))), "facts")
    findings.append(
        Finding(
            _values(kept) == _values(facts),
            _apart(facts, kept),
            "the same facts from config.json",
            place_of(modality.facts),
        )
    )
    return all_of(*findings)


def _survives(subject: Subject, settings: RunSettings, where: str) -> Finding:
    """Whether settings come back out of JSON and of TOML as they were."""
    plain = settings.model_dump(mode="json")
    toml = tomllib.loads(tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)))
    expected = "the same settings after they were written and read as JSON and as TOML"
    for form in (json.loads(json.dumps(plain)), toml):
        try:
            again = compose(subject.registry, subject.modality.name, file=form, origin=where)
        except UserError as error:
            return Finding(False, str(error), expected, where)
        if _values(again) != _values(settings):
            return Finding(False, _apart(settings, again), expected, where)
    return Finding(True, "settings and facts come back", expected, where)


def _values(settings: Settings) -> dict[str, Any]:
    """All values, nested: equality of models would also compare their classes, which are made anew for each run."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {name: _values(value) if isinstance(value, Settings) else value for name, value in values.items()}


def _apart(first: Settings, second: Settings) -> str:
    """In which values two settings differ."""
    one, two = _values(first), _values(second)
    differing = [
        f"{name} = {value!r} becomes {two.get(name)!r}" for name, value in one.items() if value != two.get(name)
    ]
    return "; ".join(differing) or "settings and facts come back"


# Codec and space


def decode_restores(subject: Subject) -> Finding:
    contract = subject.contract
    if contract.restored is None:
        raise NothingToCheckError("nothing promised: no `restored` in the contract")
    examples = subject.examples(64)
    encoded = subject.codec.encode(examples)
    off = contract.restored(examples, subject.codec.decode(encoded.state, encoded.mask))
    worst = off.double().max().item()
    return Finding(
        off.shape == (len(examples),) and worst <= contract.tolerance,
        f"decode(encode(x)) is {worst:.3g} from x at most, of {len(examples)} examples"
        if off.shape == (len(examples),)
        else f"`restored` gives {tuple(off.shape)} numbers for {len(examples)} examples",
        f"at most the tolerance {contract.tolerance:g} that is promised",
        place_of(subject.codec.decode),
    )


def encoded_statistics(subject: Subject) -> Finding:
    encoded = subject.encoded(256)
    reached = fields(subject.reached(encoded.state, encoded.mask))
    findings = []
    for name, values in fields(encoded.state).items():
        expected = subject.contract.std.get(name, 1.0)
        present = values[reached[name]].double()
        mean, std = present.mean().item(), present.std(correction=0).item()
        findings.append(
            Finding(
                abs(mean) <= 0.2 * expected and 0.75 * expected <= std <= 1.33 * expected,
                f"{_field(name)}mean {mean:.3g}, standard deviation {std:.3g}",
                f"mean 0 within {0.2 * expected:.2g}, standard deviation {expected:.3g} within a third",
                f"{place_of(subject.codec.encode)}, or the facts that it scales by",
            )
        )
    return all_of(*findings)


def _field(name: str) -> str:
    return f"{name}: " if name else ""


def noise_in_space(subject: Subject) -> Finding:
    space = subject.space
    encoded = subject.encoded(BATCH)
    freedoms = space.degrees_of_freedom(encoded.state, encoded.mask).double().mean().item()
    repeated = torch.arange(round(min(max(20_000 / max(freedoms, 1), 16), 1024))) % batch_of(encoded.state)
    like, mask = encoded.state[repeated], None if encoded.mask is None else encoded.mask[repeated]
    noise = space.noise(normal(like, "space"), mask)
    off, field = relative(space.project(noise, mask), noise)
    where = place_of(type(space.parts[field] if isinstance(space, Product) and field else space))
    outside, other = relative(space.project(encoded.state, encoded.mask), encoded.state)
    per_freedom = space.squared_norm(noise, mask).double().sum() / space.degrees_of_freedom(noise, mask).double().sum()
    # A chi-squared of n freedoms over n has the standard deviation sqrt(2 / n).
    allowed = 5 * math.sqrt(2 / space.degrees_of_freedom(noise, mask).double().sum().item()) + 1e-4
    empty = fields(space.empty(2))
    shapes = {name: tuple(value.shape[1:]) for name, value in fields(encoded.state).items()}
    wanted = {name: tuple(value.shape[1:]) for name, value in empty.items()}
    return all_of(
        Finding(shapes == wanted, f"encoded states are {shapes}", f"the shape of the space, {wanted}", where),
        Finding(
            outside <= ROUNDING,
            f"{_field(other)}encoded data are {outside:.2g} outside the space",
            f"project(x) = x within {ROUNDING:g}",
            place_of(subject.codec.encode),
        ),
        Finding(
            off <= ROUNDING,
            f"{_field(field)}noise is {off:.2g} outside the space",
            f"project(noise) = noise within {ROUNDING:g}",
            where,
        ),
        Finding(
            abs(per_freedom.item() - 1) <= allowed,
            f"|noise|^2 is {per_freedom.item():.4g} per degree of freedom",
            f"1 within {allowed:.2g}",
            where,
        ),
    )


def encoding_invariances(subject: Subject) -> Finding:
    moved = subject.contract.moved
    if not moved:
        raise NothingToCheckError("nothing promised: no `moved` in the contract")
    examples = subject.examples(32)
    plain = subject.codec.encode(examples)
    findings = []
    for name, act in moved.items():
        transform = act(examples, None, generator_for(0, "moved", name))
        again = subject.codec.encode(transform.state(examples))  # type: ignore[arg-type]
        off, field = relative(again.state, plain.state)
        findings.append(
            Finding(
                off <= subject.contract.symmetry_tolerance,
                f"{name} of the examples changes {_field(field)}what they are encoded to by {off:.2g}",
                f"at most {subject.contract.symmetry_tolerance:g} of the largest entry",
                place_of(subject.codec.encode),
            )
        )
    return all_of(*findings)


# The network


def denoiser_keeps_form(subject: Subject) -> Finding:
    where = place_of(type(subject.model.denoiser.backbone))
    findings = []
    for dtype in (torch.float32, torch.float64):
        noisy = _in_type(subject.noisy(), dtype)
        network = copy.deepcopy(subject.awake).to(dtype)
        before = _copied(noisy)
        with torch.no_grad():
            said = network(noisy.x, noisy.level, noisy.conditions, noisy.mask).output
        form, wanted = _form(said), _form(noisy.x)
        findings += [
            Finding(form == wanted, f"the output is {form}", f"the input's form, {wanted}", where),
            Finding(
                _same(before, noisy),
                "the state or the mask that the network was given has changed"
                if not _same(before, noisy)
                else "state and mask stay as they were",
                "inputs that stay as they were",
                where,
            ),
        ]
    return all_of(*findings)


def _in_type(noisy: Noisy, dtype: torch.dtype) -> Noisy:
    x, x0, noise = (map_fields(lambda f: f.to(dtype), state) for state in (noisy.x, noisy.x0, noisy.noise))
    return replace(noisy, x=x, x0=x0, noise=noise)


def _copied(noisy: Noisy) -> Noisy:
    return replace(noisy, x=noisy.x.clone(), mask=None if noisy.mask is None else noisy.mask.clone())


def _same(first: Noisy, second: Noisy) -> bool:
    states = zip(fields(first.x).values(), fields(second.x).values(), strict=True)
    masks = first.mask is None or second.mask is None or torch.equal(first.mask, second.mask)
    return masks and all(torch.equal(a, b) for a, b in states)


def _form(state: Any) -> str:
    """Kind, shapes and types of a state in words."""
    if not isinstance(state, Tensor | TensorDict):
        return f"a {type(state).__name__}"
    each = (
        f"{_field(name)}{'x'.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}"
        for name, value in sorted(fields(state).items())
    )
    return ", ".join(each)


def gradients_reach_all(subject: Subject) -> Finding:
    network = copy.deepcopy(subject.awake).train()
    model = subject.with_network(network)
    for step in range(2):
        step_loss(model, subject.settings, subject.data, step).backward()
    lacking = [
        name for name, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    strange = [
        name for name, p in network.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())
    ]
    count = len(list(network.parameters()))
    where = place_of(type(network.backbone))
    return all_of(
        Finding(
            not strange,
            f"gradients that are nan or infinite: {named(strange)}" if strange else "finite gradients",
            "finite gradients",
            where,
        ),
        Finding(
            not lacking,
            f"no gradient at {len(lacking)} of {count} parameters: {named(lacking)}"
            if lacking
            else f"gradients at all {count} parameters",
            "a gradient that is not zero at every parameter, once no weight is zero",
            where,
        ),
    )


def batch_changes_nothing(subject: Subject) -> Finding:
    noisy = subject.noisy()
    batch = batch_of(noisy.x)
    said = subject.say(noisy)
    order = torch.randperm(batch, generator=generator_for(0, "batch"))
    where = place_of(type(subject.awake.backbone))
    findings = []
    for chosen, what in ((order, "another order of the batch"), (torch.tensor([0]), "a batch of one")):
        off, field = relative(subject.say(noisy[chosen]), said[chosen])
        findings.append(
            Finding(
                off <= ROUNDING,
                f"{what} changes {_field(field)}the output by {off:.2g}",
                f"at most {ROUNDING:g} of the largest entry: samples know nothing of their neighbours",
                where,
            )
        )
    return all_of(*findings)


def padding_changes_nothing(subject: Subject) -> Finding:
    noisy = _with_absent(subject)
    mask = noisy.mask
    assert mask is not None
    said = subject.say(noisy)
    where = place_of(type(subject.awake.backbone))
    absent, possible = _absent(subject.space, noisy.x, mask), subject.reached(noisy.x, None)
    # What is stored is itself of the space, without mask: symmetric where the space is.
    stored = subject.space.noise(normal(noisy.x, "stored"), None)
    full = map_fields(lambda x, a, p, s: torch.where(a & p, 3 * s, x), noisy.x, absent, possible, stored)
    off, field = relative(subject.say(replace(noisy, x=full)), said)
    expected = f"at most {ROUNDING:g} of the largest entry of elements that exist"
    findings = [
        Finding(
            off <= ROUNDING,
            f"what is stored where no element exists changes {_field(field)}the output by {off:.2g}",
            expected,
            where,
        )
    ]
    extra = 2
    wider = replace(
        noisy,
        x=_widened(subject.space, noisy.x, extra),
        mask=torch.nn.functional.pad(mask, (0, extra)),
    )
    try:
        again = subject.say(wider)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        findings.append(Finding(True, f"the network takes {mask.shape[1]} elements alone", expected, where))
    else:
        off, field = relative(again, _widened(subject.space, said, extra))
        findings.append(
            Finding(
                off <= ROUNDING,
                f"{extra} more absent elements change {_field(field)}the output by {off:.2g}",
                expected,
                where,
            )
        )
    return all_of(*findings)


def _with_absent(subject: Subject) -> Noisy:
    noisy = subject.noisy()
    if noisy.mask is None:
        raise NothingToCheckError("no element is ever absent: the codec gives no mask")
    if bool(noisy.mask.all()):
        raise NothingToCheckError(f"no element is absent in {batch_of(noisy.x)} examples")
    return noisy


def _absent(space: Space, like: State, mask: Tensor) -> State:
    """Which entries belong to no element that exists, a state of booleans; of pairs, where either does not."""
    if isinstance(space, Product):
        parts = {name: _absent(space.parts[name], value, mask) for name, value in fields(like).items()}
        return TensorDict(parts, batch_size=like.shape[:1])
    assert isinstance(like, Tensor)
    there = mask[:, :, None] & mask[:, None] if isinstance(space, SymmetricPairs) else mask
    return ~there.reshape(*there.shape, *[1] * (like.ndim - there.ndim)).expand_as(like)


def _widened(space: Space, state: State, extra: int) -> State:
    """Zeros for `extra` more elements: axis 1 of each field, and axis 2 of pairs."""
    if isinstance(space, Product):
        parts = {name: _widened(space.parts[name], value, extra) for name, value in fields(state).items()}
        return TensorDict(parts, batch_size=state.shape[:1])
    assert isinstance(state, Tensor)
    pairs = isinstance(space, SymmetricPairs)
    after = [0, 0] * (state.ndim - 2 - pairs) + [0, extra] * (1 + pairs)
    return torch.nn.functional.pad(state, after)


def symmetries(subject: Subject) -> Finding:
    names, meant = subject.denoiser.symmetries, subject.contract.symmetries
    where = place_of(type(subject.awake.backbone))
    if not names:
        raise NothingToCheckError(f"nothing promised: {subject.denoiser.name} names no symmetries")
    tolerance = subject.contract.symmetry_tolerance
    noisy = subject.noisy()
    said = subject.say(noisy)
    findings = []
    for name in names:
        if name not in meant:
            known = ", ".join(meant) or "none"
            return Finding(False, f"{name!r} has no meaning", f"one that the modality's contract give: {known}", where)
        for draw in range(2):
            act = meant[name](noisy.x, noisy.mask, generator_for(0, "symmetry", name, draw))
            mask = None if noisy.mask is None else act.mask(noisy.mask)
            turned = replace(noisy, x=subject.space.project(act.state(noisy.x), mask), mask=mask)
            off, field = relative(subject.say(turned), subject.space.project(act.state(said), mask))
            findings.append(
                Finding(
                    off <= tolerance,
                    f"{name}: {_field(field)}f(T x) is {off:.2g} from T f(x)",
                    f"at most {tolerance:g} of the largest entry",
                    where,
                )
            )
    return all_of(*findings)


# Drawing and learning


def seeds_decide(subject: Subject) -> Finding:
    settings = subject.settings
    where_data, where_codec = f"the data set {settings.data.name}", place_of(type(subject.codec))  # type: ignore[attr-defined]
    again = build_data(settings, subject.registry)
    examples = subject.examples(BATCH)

    def encode(generator: torch.Generator | None) -> State:
        return subject.codec.encode(examples, generator).state

    first, second, other = (_drawn(subject, seed) for seed in (0, 0, 1))
    fresh = subject.fresh().network.state_dict()
    weights = all(torch.equal(value, fresh[name]) for name, value in subject.model.network.state_dict().items())
    pairs = [
        (again.facts == subject.data.facts and _equal(again.examples, subject.data.examples), "data", where_data),
        (weights, "initial weights", place_of(type(subject.model.denoiser.backbone))),
        (_equal(encode(None), encode(None)), "encoding without a generator", where_codec),
        (
            _equal(encode(generator_for(0, "encode")), encode(generator_for(0, "encode"))),
            "encoding with generators of one seed",
            where_codec,
        ),
        (_equal(first[0], second[0]), "samples of one seed", place_of(type(subject.model.denoiser.backbone))),
        (_alike(first[1], second[1]), "what one state is decoded to", place_of(subject.codec.decode)),
    ]
    findings = [
        Finding(same, f"{what}: {'equal' if same else 'not equal'} when made again", "equal, bit for bit", where)
        for same, what, where in pairs
    ]
    differ = not _equal(first[0], other[0])
    findings.append(
        Finding(
            differ,
            f"samples of two seeds are {'different' if differ else 'equal'}",
            "different samples",
            place_of(type(subject.space)),
        )
    )
    return all_of(*findings)


def _drawn(subject: Subject, seed: int, n: int = 4) -> tuple[State, Any]:
    """A few samples in a few steps: their states, and decoded."""
    settings = subject.settings.sample.model_copy(update={"steps": 4, "guidance": 1.0})
    config = sampling_config(settings, subject.registry)
    conditions = {c.name: c.examples(n) for c in subject.codec.conditions}
    drawn = generate(subject.fresh(), config, conditions or nulls((), n), n, seed)
    return drawn.state, subject.codec.decode(drawn.state, drawn.mask)


def _equal(first: Any, second: Any) -> bool:
    one, two = fields(first), fields(second)
    return one.keys() == two.keys() and all(_same_tensor(one[name], two[name]) for name in one)


def _same_tensor(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())


def _alike(first: Any, second: Any) -> bool:
    """Whether samples in the modality's own form are equal, as far as that can be told."""
    if isinstance(first, Tensor | TensorDict):
        return _equal(first, second)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_alike, first, second))
    if hasattr(first, "__dict__") and not callable(first):
        return _alike([*vars(first).values()], [*vars(second).values()])
    same = first == second
    return bool(same.all()) if hasattr(same, "all") else bool(same)


def samples_decode(subject: Subject) -> Finding:
    where = place_of(subject.codec.decode)
    n = 4
    state, samples = _drawn(subject, 0, n)
    strange = [name for name, value in fields(state).items() if not bool(value.isfinite().all())]
    if isinstance(samples, Tensor | TensorDict):
        strange += [f"decoded {k}".strip() for k, v in fields(samples).items() if not bool(torch.isfinite(v).all())]
    if strange:
        return Finding(False, f"nan or infinite: {named(name or 'state' for name in strange)}", "finite samples", where)
    if len(samples) != n:
        return Finding(False, f"{n} states are decoded to {len(samples)} samples", f"{n} samples", where)
    writer = subject.modality.writer(subject.codec)
    where = place_of(type(writer))
    with tempfile.TemporaryDirectory() as folder:
        (each := Path(folder) / "each").mkdir()
        paths = writer.each(samples, each, [f"{i}" for i in range(n)])
        wholes = [Path(folder) / f"all{ending}" for ending in writer.endings]
        for path in wholes:
            writer.together(samples, path, 2)
        html = writer.html(samples, 2)
        missing_files = [
            str(p.relative_to(folder)) for p in (*paths, *wholes) if not p.is_file() or not p.stat().st_size
        ]
        count, there = len(paths), sum(1 for p in each.iterdir() if p.is_file())
    return all_of(
        Finding(
            not missing_files,
            f"files that are missing or empty: {named(missing_files)}" if missing_files else "finite samples, in files",
            "a file of each sample, and one of all for each of the writer's endings",
            where,
        ),
        Finding(count == n and there >= n, f"{count} files of {n} samples", f"{n} files", where),
        Finding(isinstance(html, str) and bool(html), f"{len(html)} letters of HTML", "a fragment of HTML", where),
    )


OVERFIT_STEPS, OVERFIT_TO = 200, 0.3
"""The plugins of this project take 13 to 68 steps."""


def overfits_one_batch(subject: Subject) -> Finding:
    """Uses the error of v, which counts all noise levels alike, on fixed noise."""
    model = subject.fresh()
    network = model.denoiser.train()
    noisy = subject.noisy()
    optimizer = torch.optim.Adam(network.parameters(), lr=subject.settings.train.learning_rate, betas=(0.9, 0.99))
    first = loss = math.nan
    step = 0
    for step in range(OVERFIT_STEPS + 1):
        prediction = network(noisy.x, noisy.level, noisy.conditions, noisy.mask)
        error = denoising_loss(prediction, noisy.x0, noisy.noise, subject.space, "v", noisy.mask).mean()
        loss = error.item()
        first = loss if step == 0 else first
        if loss <= OVERFIT_TO * first or not math.isfinite(loss):
            break
        optimizer.zero_grad(set_to_none=True)
        error.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), subject.settings.train.gradient_clip)
        optimizer.step()
    return Finding(
        loss <= OVERFIT_TO * first,
        f"the loss of one batch went from {first:.3g} to {loss:.3g} in {step} steps",
        f"{OVERFIT_TO:g} of the first within {OVERFIT_STEPS} steps of the preset's learning rate, "
        f"{subject.settings.train.learning_rate:g}",
        place_of(type(network.backbone)),
    )


@contextmanager
def _trained(subject: Subject) -> Iterator[tuple[Run, Model, Model]]:
    """A run of a few steps in a folder of its own, the trained model, and the one with averaged weights."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run")
        run.path.mkdir()
        model = subject.fresh()
        outcome = train(run, subject.settings, model, subject.data, Callbacks())
        yield run, model, outcome.model


def checkpoint_round_trip(subject: Subject) -> Finding:
    noisy = subject.noisy()
    findings = []
    with _trained(subject) as (run, trained, averaged):
        for written, file in ((trained, MODEL), (averaged, EMA)):
            read = subject.fresh()
            load_weights(read, find_checkpoint(run), file)
            said = subject.say(noisy, read.denoiser.eval())
            off, field = relative(said, subject.say(noisy, written.denoiser.eval()))
            findings.append(
                Finding(
                    off <= ROUNDING / 10,
                    f"{_field(field)}read from {file}, the network says what is {off:.2g} from what it said before",
                    "the same: all that is learned or counted is a parameter or a persistent buffer",
                    place_of(type(read.denoiser.backbone)),
                )
            )
    return all_of(*findings)


def exact_resume(subject: Subject) -> Finding:
    with _trained(subject) as (unbroken, *_):
        middle, end = checkpoints(unbroken)[0], find_checkpoint(unbroken)
        resumed = Run(unbroken.path.parent / "resumed")
        shutil.copytree(middle, resumed.checkpoints / middle.name)
        start = resumed.checkpoints / middle.name
        train(resumed, subject.settings, subject.fresh(), subject.data, Callbacks(), start)
        losses = [[row["loss"] for row in read_log(run)][-2:] for run in (unbroken, resumed)]
        apart = [
            f"{file}: {name}"
            for file in (MODEL, EMA, TRAINING)
            for first, second in [(read_tensors(end, file), read_tensors(find_checkpoint(resumed), file))]
            for name in sorted({*first, *second})
            if name not in first or name not in second or not torch.equal(first[name], second[name])
        ]
    where = (
        f"{place_of(type(subject.model.denoiser.backbone))} and {place_of(subject.codec.encode)}: what changes in "
        "training and is in no checkpoint, or is drawn from another generator than the given one"
    )
    return all_of(
        Finding(
            losses[0] == losses[1],
            f"losses of the steps after the resumption are {_numbers(losses[1])}, unbroken {_numbers(losses[0])}",
            "equal, bit for bit",
            where,
        ),
        Finding(
            not apart,
            f"not as in the unbroken run: {named(apart)}" if apart else "the same weights",
            "equal, bit for bit",
            where,
        ),
    )


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.9g}" for value in values)


CHECKS = (
    Check("builds", "data, codec and network of the preset default can be made", builds),
    Check("imports_light", "the entry-point module imports nothing heavy", imports_light),
    Check("configuration_round_trip", "presets and facts come back out of JSON and TOML", configuration_round_trip),
    Check("decode_restores", "decode(encode(x)) is x within the promised tolerance", decode_restores),
    Check("encoded_statistics", "encoded data have zero mean and unit variance", encoded_statistics),
    Check("noise_in_space", "noise and data lie in the space; noise has unit variance in it", noise_in_space),
    Check("encoding_invariances", "encoding takes out what it is promised to", encoding_invariances),
    Check("denoiser_keeps_form", "the output has shape and type of the input, which stays", denoiser_keeps_form),
    Check("gradients_reach_all", "the loss has a gradient at every parameter", gradients_reach_all),
    Check("batch_changes_nothing", "a sample's output does not depend on its neighbours", batch_changes_nothing),
    Check("padding_changes_nothing", "absent elements change nothing", padding_changes_nothing),
    Check("symmetries", "each declared symmetry holds under random transforms", symmetries),
    Check("seeds_decide", "a seed decides data, weights, encoding and samples", seeds_decide),
    Check("samples_decode", "samples are finite and are written to files", samples_decode),
    Check("overfits_one_batch", "one batch can be learned by heart", overfits_one_batch),
    Check("checkpoint_round_trip", "a network that was written and read says the same", checkpoint_round_trip),
    Check("exact_resume", "a run that was stopped and resumed is the unbroken run", exact_resume),
)
"""In the order in which they are done: from what the others need to what takes longest."""
