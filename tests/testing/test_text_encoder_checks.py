"""The contract of text encoders: each fault fails its check."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from diffcore.denoising.inputs import Embedded, Tokens
from diffcore.denoising.words import Words, vocabulary, words_of
from diffcore.plugins.records import Component
from diffcore.plugins.registry import load
from diffcore.testing.conformance import run_contract
from diffcore.testing.parts import PartUnderTest


class Network(nn.Module):
    """A token for each word, and the mean of the tokens as the vector."""

    def __init__(self, count, channels, width):
        super().__init__()
        self.table = nn.Embedding(count + 1, channels, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(64, channels))
        self.vector = nn.Linear(channels, width)

    def forward(self, ids):
        values = self.table(ids) + self.positions[: ids.shape[1]]
        mask = ids > 0
        mean = values.where(mask[..., None], 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return Embedded(self.vector(mean), Tokens(values, mask))


class Sound(Words):
    network = Network

    def embedding(self, width):
        return self.network(len(self.vocabulary), self.channels, width)


class WithEnd(Sound):
    def ids(self, text):
        return [*super().ids(text), 0]


class First(Sound):
    def ids(self, text):
        return super().ids(text)[:1]

    known_ids = ids


class Lines(Sound):
    def text(self, ids):
        return super().text(ids) + "\n"


class Forgetful(Sound):
    @property
    def learned(self):
        return {**super().learned, "vocabulary": sorted(self.vocabulary, key=len)}


class Identity(Sound):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


def networked(change):
    """An encoder whose network changes the embedding of `Network`: `change(network, ids, embedded)`."""

    class Changed(Network):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.more = torch.randn(64)

        def forward(self, ids):
            return change(self, ids, super().forward(ids))

    class Encoder(Sound):
        network = Changed

    return Encoder


def tokens_times(factor):
    return lambda network, ids, e: Embedded(e.vector, Tokens(e.tokens.values * factor(network, ids), e.tokens.mask))


class Kept(Sound):
    class network(Network):
        def keep_texts(self, ids):
            pass

        def forward(self, ids):
            found = super().forward(ids)
            return Embedded(found.vector * (2 if self.training else 1), found.tokens)


@dataclass(frozen=True)
class Fault:
    check: str
    kind: type
    measured: str


FAULTS = {
    "an id of zero": Fault("reads_texts", WithEnd, "the ids of 'a red circle' are"),
    "the same ids": Fault("reads_texts", First, "different texts have the same ids"),
    "a text of two lines": Fault("reads_texts", Lines, "`text` of the ids of 'a red circle' is"),
    "words in another order": Fault("made_again", Forgetful, "has another digest, ids, =="),
    "each is another": Fault("made_again", Identity, "has another =="),
    "infinite": Fault("embeds", networked(tokens_times(lambda n, ids: torch.inf)), "nan or infinite numbers in tokens"),
    "random": Fault("embeds", networked(tokens_times(lambda n, ids: torch.rand(()))), "tokens differ when"),
    "seen neighbours": Fault(
        "padding",
        networked(tokens_times(lambda n, ids: ids.double().mean().float())),
        "other texts in the batch change",
    ),
    "seen padding": Fault("padding", networked(tokens_times(lambda n, ids: ids.shape[1])), "change the tokens by"),
    "nothing is read": Fault(
        "distinct",
        networked(
            lambda n, ids, e: Embedded(0 * e.vector + 1, Tokens(e.tokens.values[:, :1] * 0 + 1, ids[:, :1] >= 0))
        ),
        "have the same embedding",
    ),
    "an unused layer": Fault(
        "gradients", networked(lambda n, ids, e: Embedded(None, e.tokens)), "no gradient for vector.weight, vector.bias"
    ),
    "not in the state dict": Fault(
        "saved", networked(tokens_times(lambda n, ids: n.more[: ids.shape[1], None])), "differ in a network with"
    ),
    "another in training": Fault("kept", Kept, "vector differ from those of sampling"),
}


def results_of(kind):
    def build(options, texts, learned):
        known = vocabulary(texts, 1000) if learned is None else tuple(learned["vocabulary"])
        length = max(len(words_of(text)) for text in texts) if learned is None else learned["length"]
        return kind(known, length, 8)

    part = PartUnderTest("text-encoder", Component("mine", "", build), load([]))
    return {result.name: result for result in run_contract(part)}


def test_a_sound_encoder_passes():
    assert {result.status for result in results_of(Sound).values()} == {"passed", "skipped"}


@pytest.mark.parametrize("wrong", FAULTS)
def test_each_fault_is_found(wrong):
    fault = FAULTS[wrong]
    failed = {name: result for name, result in results_of(fault.kind).items() if result.is_error}
    also = {"nothing is read": {"gradients"}, "seen neighbours": {"once"}}
    assert {fault.check} <= {*failed} <= {fault.check} | also.get(wrong, set()), failed
    assert fault.measured in failed[fault.check].measured
