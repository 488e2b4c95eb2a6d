"""The contract of text encoders: ids that mean the same in every run, and embeddings that follow the text alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.embedded_once import embedded, embedded_once
from diffcore.denoising.inputs import Embedded, Inputs, require_embedded
from diffcore.denoising.text import TextCondition, TextEncoder
from diffcore.states.global_random import seeded
from diffcore.testing.checks.check import Check, Measurement, NotApplicableError
from diffcore.testing.checks.common import ROUNDING, combined, name_list, relative_difference, source_location
from diffcore.testing.parts.part import PartUnderTest, built
from diffcore.testing.plugin import randomised

TEXTS = (
    "a red circle",
    "a blue square",
    "a small red circle to the left of a big blue square",
    "there is a big blue square above a small red circle",
    "red",
)
"""The captions that encoders are tried with."""

_WIDTH = 16


def builds(part: PartUnderTest) -> Measurement:
    """The builder takes the options and the texts of a data set, and returns a `TextEncoder`."""
    return built(part, TEXTS, None)


def _encoder(part: PartUnderTest) -> TextEncoder:
    encoder: TextEncoder = part.build(TEXTS, None)
    return encoder


def _where(encoder: TextEncoder) -> str:
    return source_location(type(encoder))


def reads_texts(part: PartUnderTest) -> Measurement:
    """Ids are whole numbers from 1 to `largest`, the empty text has none, and ids are shown as one line of text."""
    encoder = _encoder(part)
    expected = "ids from 1 to `largest`, of which different texts have different ones, and `text` of one line"
    complaint = next(_complaints_of_ids(encoder), None)
    return Measurement(complaint is None, complaint or f"{len(TEXTS)} texts are read", expected, _where(encoder))


def _complaints_of_ids(encoder: TextEncoder) -> Iterator[str]:
    for name in ("length", "channels", "largest"):
        value = getattr(encoder, name, None)
        if not isinstance(value, int) or not 0 < value < 2**31:
            yield f"`{name}` is {value!r}"
    for text in TEXTS:
        ids = encoder.ids(text)
        if not ids or not all(isinstance(number, int) and 0 < number <= encoder.largest for number in ids):
            yield f"the ids of {text!r} are {ids!r:.80}, not all between 1 and `largest`, {encoder.largest!r}"
        if [*encoder.known_ids(text)] != [*ids]:
            yield f"`known_ids` of {text!r} differ from `ids`, although all of it is known"
        shown = encoder.text([*ids, 0, 0])
        if not isinstance(shown, str) or not shown or not shown.isprintable():
            yield f"`text` of the ids of {text!r} is {shown!r:.80}"
    if empty := [*encoder.ids("")]:
        yield f"the empty text has the ids {empty!r:.80}"
    if len({tuple(encoder.ids(text)) for text in TEXTS}) < len(TEXTS):
        yield "different texts have the same ids"


def made_again(part: PartUnderTest) -> Measurement:
    """What it has `learned`, written as JSON and read again, makes an equal encoder with the same digest and ids."""
    encoder = _encoder(part)
    again: TextEncoder = part.build((), json.loads(json.dumps(dict(encoder.learned))))
    differ = [name for name in ("length", "channels", "digest") if getattr(encoder, name) != getattr(again, name)]
    differ += ["ids"] if any(encoder.ids(text) != again.ids(text) for text in TEXTS) else []
    differ += [] if encoder == again and TextCondition("prompt", encoder) == TextCondition("prompt", again) else ["=="]
    measured = f"the encoder that is made again has another {name_list(differ)}" if differ else "it is the same again"
    return Measurement(not differ, measured, "an equal encoder, from `learned` alone", _where(encoder))


@dataclass(frozen=True)
class _Tried:
    """An encoder, a network of it in evaluation mode, and the ids of the texts, with the empty text as the last."""

    encoder: TextEncoder
    network: nn.Module
    ids: Tensor

    def of(self, ids: Tensor, network: nn.Module | None = None) -> dict[str, Tensor]:
        """The parts of the embedding of ids by name; tokens that do not exist are zero, and L is the full length."""
        found = self.checked((self.network if network is None else network)(ids), len(ids))
        return self.parts(found)

    def checked(self, found: Tensor | Embedded, batch: int) -> Embedded:
        return require_embedded("prompt", found, Inputs(tokens=self.encoder.channels), batch, _WIDTH)

    def parts(self, found: Embedded) -> dict[str, Tensor]:
        values, mask = found.tokens  # type: ignore[misc]
        short = max(self.encoder.length - values.shape[1], 0)
        tokens = functional.pad(values.where(mask[..., None], 0.0), (0, 0, 0, short))
        parts = {"tokens": tokens, "mask": functional.pad(mask.to(values.dtype), (0, short))}
        return parts if found.vector is None else {**parts, "vector": found.vector}


def _tried(part: PartUnderTest, seed: int = 0) -> _Tried:
    encoder = _encoder(part)
    condition = TextCondition("prompt", encoder)
    ids = torch.cat([*(condition.parse(text, [0], 0) for text in TEXTS), condition.null(1)])
    with seeded(seed):
        network = encoder.embedding(_WIDTH)
    return _Tried(encoder, randomised(network), ids)


@torch.no_grad()
def embeds(part: PartUnderTest) -> Measurement:
    """The embedding has finite tokens, and a vector if it has any, also for the empty text; the same when repeated."""
    tried = _tried(part)
    first, again = tried.of(tried.ids), tried.of(tried.ids)
    infinite = [name for name, value in first.items() if not bool(value.isfinite().all())]
    differ = [name for name, value in first.items() if not value.equal(again[name])]
    where = source_location(type(tried.network))
    return combined(
        Measurement(not infinite, f"nan or infinite numbers in {name_list(infinite)}" if infinite else "finite numbers",
                    "finite numbers", where),
        Measurement(not differ, f"{name_list(differ)} differ when they are computed again" if differ else "repeatable",
                    "the same again", where),
    )  # fmt: skip


@torch.no_grad()
def padding(part: PartUnderTest) -> Measurement:
    """The embedding of a text depends neither on the other texts of its batch nor on zeros after its ids."""
    tried = _tried(part)
    whole = tried.of(tried.ids)
    measurements = []
    for row in range(len(tried.ids)):
        text = tried.ids[row : row + 1]
        short = text[:, : max(1, int((text > 0).sum()))]
        for what, ids in (("other texts in the batch", text), ("zeros after its ids", short)):
            for name, value in tried.of(ids).items():
                difference = relative_difference(value[0], whole[name][row]).value
                measurements.append(
                    Measurement(
                        difference <= ROUNDING,
                        f"{what} change the {name} by {difference:.2g}" if difference > ROUNDING else "no effect",
                        f"at most {ROUNDING:g} of the largest entry",
                        source_location(type(tried.network)),
                    )
                )
    return combined(*measurements)


@torch.no_grad()
def distinct(part: PartUnderTest) -> Measurement:
    """Different texts have different embeddings, and the empty text another one than all of them."""
    tried = _tried(part)
    whole, names = tried.of(tried.ids), [*TEXTS, ""]
    same = [
        (names[i], names[j])
        for i in range(len(names))
        for j in range(i)
        if all(relative_difference(value[i], value[j]).value < ROUNDING for value in whole.values())
    ]
    measured = f"{same[0][1]!r} and {same[0][0]!r} have the same embedding" if same else "all embeddings differ"
    return Measurement(not same, measured, "different embeddings", source_location(type(tried.network)))


def gradients(part: PartUnderTest) -> Measurement:
    """In training, the loss has a gradient for every parameter of the embedding."""
    tried = _tried(part)
    network = tried.network.train()
    found = tried.parts(tried.checked(network(tried.ids), len(tried.ids)))
    generator = torch.Generator().manual_seed(0)
    loss = sum((value * torch.randn(value.shape, generator=generator)).sum() for value in found.values())
    loss.backward()  # type: ignore[union-attr]
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    lacking = [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()]
    measured = f"no gradient for {name_list(lacking)}" if lacking else f"gradients for {len(trained)} parameters"
    return Measurement(not lacking, measured, "a gradient for every parameter", source_location(type(network)))


@torch.no_grad()
def saved(part: PartUnderTest) -> Measurement:
    """Another network with the same state dict has the same embeddings: nothing that is drawn is missing in it."""
    tried, other = _tried(part), _tried(part, seed=1)
    other.network.load_state_dict(tried.network.state_dict())
    first, again = tried.of(tried.ids), other.of(tried.ids)
    differ = [name for name, value in first.items() if relative_difference(value, again[name]).value > ROUNDING]
    measured = f"{name_list(differ)} differ in a network with the same state dict" if differ else "the same embeddings"
    expected = "a state dict, and a digest, that say everything"
    return Measurement(not differ, measured, expected, source_location(type(tried.network)))


@torch.no_grad()
def once(part: PartUnderTest) -> Measurement:
    """While samples are drawn, each distinct text is encoded once, with the same result as if it were each time."""
    tried = _tried(part)
    ids = tried.ids.repeat_interleave(3, 0)
    with _counted(tried.network) as rows, embedded_once():
        found = [tried.parts(tried.checked(embedded(tried.network, ids), len(ids))) for _ in range(3)][-1]
    expected = tried.of(ids)
    differ = [name for name, value in expected.items() if relative_difference(found[name], value).value > ROUNDING]
    where = source_location(type(tried.network))
    return combined(
        Measurement(rows == [len(tried.ids)], f"{sum(rows)} texts encoded for {len(tried.ids)} different ones",
                    f"{len(tried.ids)} texts", where),
        Measurement(not differ, f"{name_list(differ)} differ from those of each text" if differ else "equal embeddings",
                    "equal embeddings", where),
    )  # fmt: skip


@contextmanager
def _counted(network: nn.Module) -> Iterator[list[int]]:
    """The number of texts of each call of the network."""
    rows: list[int] = []
    hook = network.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0])))
    try:
        yield rows
    finally:
        hook.remove()


@torch.no_grad()
def kept(part: PartUnderTest) -> Measurement:
    """After `keep_texts`, training has the embeddings that sampling has."""
    tried = _tried(part)
    if not hasattr(tried.network, "keep_texts"):
        raise NotApplicableError("the embedding has no `keep_texts`, so all of it is computed in each step")
    expected = tried.of(tried.ids)
    tried.network.keep_texts(tried.ids[:-1])  # type: ignore[operator]
    found = tried.of(tried.ids, tried.network.train())
    differ = [
        name for name, value in expected.items() if relative_difference(found[name], value).value > 100 * ROUNDING
    ]
    measured = f"{name_list(differ)} differ from those of sampling" if differ else "the embeddings of sampling"
    return Measurement(not differ, measured, "the same in training", source_location(type(tried.network)))


_NEEDS = ("builds", "reads_texts")
_EMBEDS = (*_NEEDS, "embeds")

CHECKS = (
    Check("builds", "the builder returns a text encoder", builds),
    Check("reads_texts", "texts have ids from 1 on", reads_texts, ("builds",)),
    Check("made_again", "what it has learned makes it again", made_again, _NEEDS),
    Check("embeds", "texts have finite tokens and vectors", embeds, _NEEDS),
    Check("padding", "an embedding depends on its text alone", padding, _EMBEDS),
    Check("distinct", "different texts have different embeddings", distinct, _EMBEDS),
    Check("gradients", "every parameter has a gradient", gradients, _EMBEDS),
    Check("saved", "the state dict has all that is trained", saved, _EMBEDS),
    Check("once", "each distinct text is encoded once in sampling", once, _EMBEDS),
    Check("kept", "training looks up what sampling computes", kept, _EMBEDS),
)
