"""The checks of conditions: a plugin with sentences passes all checks, and each fault fails the check of conditions."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from diffcore.denoising.inputs import Embedded, Tokens
from diffcore.nn.dit import DiT
from diffcore.plugins.registry import load
from diffcore.testing.checks import CHECKS
from diffcore.testing.conformance import plugin_under_test, run_check, run_checks
from tests.support.told_toy import DIT, TOLD, WORDS, Sentence, ToldCodec, ToldData, WordEmbedding, told

BARE = load([])
BY_NAME = {check.name: check for check in CHECKS}


def result_of(name, modality):
    return run_check(BY_NAME[name], plugin_under_test(modality, registry=BARE))


@pytest.mark.parametrize("kinds", [("words",), ("words", "coarse", "label")])
def test_a_plugin_with_its_own_conditions_passes(kinds):
    class Options(ToldData):
        told: tuple[str, ...] = kinds

    modality = replace(TOLD, datasets=(replace(TOLD.datasets[0], build=told, options=Options),))
    found = {result.name: result for result in run_checks(plugin_under_test(modality, registry=BARE))}
    skipped = {name for name, result in found.items() if result.status == "skipped"}
    allowed = {"imports_light", "reader_reads", "encoding_invariances", "padding_changes_nothing", "symmetries"}
    assert skipped <= allowed | {"evaluator_measures"} | ({"classifier_predicts"} if "label" not in kinds else set())
    assert not [str(result) for result in found.values() if result.is_error]
    assert found["token_padding"].status == found["conditions_sound"].status == "passed"


class NullIsGiven(Sentence):
    def given(self, value):
        return torch.ones(len(value)).bool()


class OneForAll(Sentence):
    def given(self, value):
        return (value > 0).any()


class Numbers(Sentence):
    def null(self, batch, device="cpu"):
        return torch.zeros(batch, self.length, device=device)

    def require(self, value):
        pass


class Lines(Sentence):
    def caption(self, value):
        return "\n".join([*super().caption(value).split(), ""])


class Few(Sentence):
    def examples(self, batch):
        return super().examples(batch)[:1]


class Unequal(Sentence):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Neighbours(WordEmbedding):
    def forward(self, value):
        tokens = super().forward(value).tokens
        return Embedded(tokens=Tokens(tokens.values + tokens.values.mean(0), tokens.mask))


class Infinite(WordEmbedding):
    def forward(self, value):
        tokens = super().forward(value).tokens
        return Embedded(tokens=Tokens(tokens.values / (value > 1)[..., None], tokens.mask))


class Pooled(WordEmbedding):
    def forward(self, value):
        return super().forward(value).tokens.values.mean(1)


def embedded_by(kind):
    class Other(Sentence):
        def embedding(self, width):
            return kind(len(self.words) + 1, self.channels)

    return Other


def with_condition(kind):
    class Codec(ToldCodec):
        def __init__(self, facts):
            self.conditions = (kind("words", WORDS),)

    return replace(TOLD, codec=Codec)


FAULTS = {
    "null is given": (NullIsGiven, "words: null values count as given"),
    "given is one value": (OneForAll, "`given` is bool [], not bool [8]"),
    "null has another type": (Numbers, "null values are torch.float32, and those of examples torch.int64"),
    "a caption of two lines": (Lines, "`caption` is '"),
    "examples are too few": (Few, "`examples(3)` has the shape [1, 3], not [3, 3]"),
    "it is another one in each codec": (Unequal, "they do not compare equal"),
    "other values are seen": (embedded_by(Neighbours), "other values of the batch change the tokens of its embedding"),
    "the embedding is infinite": (embedded_by(Infinite), "nan or infinite numbers in the tokens"),
}


@pytest.mark.parametrize("wrong", FAULTS)
def test_each_fault_of_a_condition_is_found(wrong):
    kind, measured = FAULTS[wrong]
    result = result_of("conditions_sound", with_condition(kind))
    assert result.status == "failed"
    assert measured in result.measured
    assert result.where


def test_an_embedding_that_yields_something_else_is_named():
    result = result_of("conditions_sound", with_condition(embedded_by(Pooled)))
    assert result.status == "failed"
    assert "returned no tokens and nothing like the state, and `inputs` of the condition says 8 ch" in result.measured


class Averaging(nn.Module):
    """Adds the mean of all tokens, also of those that do not exist."""

    def __init__(self, tokens):
        super().__init__()
        self.accepts, self.width = ("tokens",), 16
        self.network, self.mean = DiT(1, (4, 4), width=16, depth=1, heads=2), nn.Linear(tokens, 1)

    def forward(self, x, conditioning, mask=None, tokens=None):
        return self.network(x, conditioning) + self.mean(tokens.values.mean(1))[:, :, None, None]


def test_a_network_that_counts_tokens_that_do_not_exist_is_found():
    def build(options, space, inputs):
        return Averaging(inputs.tokens)

    result = result_of("token_padding", replace(TOLD, denoisers=(replace(DIT, build=build),)))
    assert result.status == "failed"
    assert result.measured.startswith("other numbers stored where no token exists change the output by")
