"""The checks that plugins must pass, one module for each group; `CHECKS` is the list of all of them.

Where parameters of a network are zero at first, most checks of networks replace them by random numbers
(`PluginUnderTest.randomised_denoiser`), as a fault cannot be seen in an output that is zero.
"""

from diffcore.testing.checks.build import builds, imports_light
from diffcore.testing.checks.check import Check, Measurement, NotApplicableError
from diffcore.testing.checks.codec import decode_restores, encoded_statistics, encoding_invariances
from diffcore.testing.checks.denoiser import batch_changes_nothing, denoiser_keeps_form, gradients_reach_all
from diffcore.testing.checks.files import samples_decode
from diffcore.testing.checks.masks import padding_changes_nothing
from diffcore.testing.checks.sampling import seeds_decide
from diffcore.testing.checks.settings import configuration_round_trip
from diffcore.testing.checks.space import noise_in_space
from diffcore.testing.checks.symmetry import symmetries
from diffcore.testing.checks.training import checkpoint_round_trip, exact_resume, overfits_one_batch

__all__ = ["CHECKS", "Check", "Measurement", "NotApplicableError"]

CHECKS = (
    Check("builds", "data, codec and network of the preset default can be built", builds),
    Check("imports_light", "the entry-point module imports nothing heavy", imports_light),
    Check(
        "configuration_round_trip",
        "settings and facts are the same after writing and reading",
        configuration_round_trip,
    ),
    Check("decode_restores", "decode(encode(x)) is x within the tolerance of the contract", decode_restores),
    Check("encoded_statistics", "encoded data have zero mean and unit variance", encoded_statistics),
    Check("noise_in_space", "data and noise lie in the space, and noise has unit variance in it", noise_in_space),
    Check("encoding_invariances", "encoding removes what the transforms of the contract change", encoding_invariances),
    Check("denoiser_keeps_form", "the output has the shapes and dtypes of the input", denoiser_keeps_form),
    Check("gradients_reach_all", "the loss has a gradient at every parameter", gradients_reach_all),
    Check(
        "batch_changes_nothing", "an output does not depend on the other samples of the batch", batch_changes_nothing
    ),
    Check("padding_changes_nothing", "absent elements have no effect", padding_changes_nothing),
    Check("symmetries", "each declared symmetry holds under random transforms", symmetries),
    Check("seeds_decide", "a seed determines data, weights, encoding and samples", seeds_decide),
    Check("samples_decode", "samples are finite, and are decoded and written to files", samples_decode),
    Check("overfits_one_batch", "the network can fit a single batch", overfits_one_batch),
    Check("checkpoint_round_trip", "a network computes the same after saving and loading", checkpoint_round_trip),
    Check("exact_resume", "a resumed run equals an uninterrupted run", exact_resume),
)
"""All checks in the order in which they run: `builds`, which the others need, comes first, and the slowest last."""
