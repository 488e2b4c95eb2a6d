"""The checks that plugins must pass, one module for each group; `CHECKS` is the list of all of them.

Where parameters of a network are zero at first, most checks of networks replace them by random numbers
(`PluginUnderTest.randomised_denoiser`), as a fault cannot be seen in an output that is zero.
"""

from diffcore.testing.checks.build import builds, imports_light
from diffcore.testing.checks.check import Check, Measurement, NotApplicableError
from diffcore.testing.checks.codec import decode_restores, encoded_statistics, encoding_invariances
from diffcore.testing.checks.conditions import conditions_sound, token_padding
from diffcore.testing.checks.data import data_repeat, data_sound, held_out_differs
from diffcore.testing.checks.denoiser import (
    batch_changes_nothing,
    denoiser_keeps_form,
    gradients_reach_all,
    network_runs,
)
from diffcore.testing.checks.evaluation import classifier_predicts, evaluator_measures, reader_reads
from diffcore.testing.checks.facts import facts_match
from diffcore.testing.checks.files import samples_decode
from diffcore.testing.checks.masks import padding_changes_nothing
from diffcore.testing.checks.memory import network_memory
from diffcore.testing.checks.sampling import seeds_decide
from diffcore.testing.checks.settings import configuration_round_trip
from diffcore.testing.checks.space import noise_in_space
from diffcore.testing.checks.symmetry import symmetries
from diffcore.testing.checks.training import checkpoint_round_trip, exact_resume, overfits_one_batch

__all__ = ["CHECKS", "Check", "Measurement", "NotApplicableError"]

_BUILT, _DATA, _NETWORK, _SAMPLES = ("builds",), ("data_sound",), ("network_runs",), ("facts_match", "network_runs")

CHECKS = (
    Check("builds", "data, codec and network of the preset default can be built", builds),
    Check("imports_light", "the entry-point module imports nothing heavy", imports_light),
    Check(
        "configuration_round_trip",
        "settings and facts are the same after writing and reading",
        configuration_round_trip,
        _BUILT,
    ),
    Check(
        "data_sound", "encoded examples have finite numbers, and conditions and masks that exist", data_sound, _BUILT
    ),
    Check(
        "data_repeat", "the data set is the same when it is built again, also by another process", data_repeat, _BUILT
    ),
    Check("held_out_differs", "held-out examples are not training examples", held_out_differs, _BUILT),
    Check("conditions_sound", "conditions have null values, and embeddings of each value", conditions_sound, _DATA),
    Check("facts_match", "sizes, scalar conditions and categories agree with the data", facts_match, _DATA),
    Check("decode_restores", "decode(encode(x)) is x within the tolerance of the contract", decode_restores, _DATA),
    Check("encoded_statistics", "encoded data have zero mean and unit variance", encoded_statistics, _DATA),
    Check(
        "noise_in_space", "data and noise lie in the space, and noise has unit variance in it", noise_in_space, _DATA
    ),
    Check(
        "encoding_invariances",
        "encoding removes what the transforms of the contract change",
        encoding_invariances,
        _DATA,
    ),
    Check("network_memory", "training fits into the memory of this machine", network_memory, _DATA),
    Check("network_runs", "the network returns finite states", network_runs, ("network_memory",)),
    Check("denoiser_keeps_form", "the output has the shapes and dtypes of the input", denoiser_keeps_form, _NETWORK),
    Check("gradients_reach_all", "the loss has a gradient at every parameter", gradients_reach_all, _NETWORK),
    Check(
        "batch_changes_nothing",
        "an output does not depend on the other samples of the batch",
        batch_changes_nothing,
        _NETWORK,
    ),
    Check("padding_changes_nothing", "absent elements have no effect", padding_changes_nothing, _NETWORK),
    Check("token_padding", "tokens that do not exist have no effect", token_padding, _NETWORK),
    Check("symmetries", "each declared symmetry holds under random transforms", symmetries, _NETWORK),
    Check("seeds_decide", "a seed determines weights, encoding and samples", seeds_decide, _SAMPLES),
    Check("samples_decode", "samples are finite, and are decoded and written to files", samples_decode, _SAMPLES),
    Check("reader_reads", "the reader reads what the writer writes", reader_reads, ("samples_decode",)),
    Check("evaluator_measures", "the evaluator gives metrics of any samples", evaluator_measures, ("samples_decode",)),
    Check("classifier_predicts", "the noisy classifier predicts each sample for itself", classifier_predicts, _DATA),
    Check("overfits_one_batch", "the network can fit a single batch", overfits_one_batch, _NETWORK),
    Check(
        "checkpoint_round_trip", "a network computes the same after saving and loading", checkpoint_round_trip, _NETWORK
    ),
    Check("exact_resume", "a resumed run equals an uninterrupted run", exact_resume, ("checkpoint_round_trip",)),
)
"""All checks in the order in which they run: data before networks, and the slowest last.

A check is skipped if one that it `needs` has failed.
"""
