"""Checks of the codec: decoding, the scale of encoded data, and what encoding removes."""

from diffcore.states.noise import generator_for
from diffcore.states.state import fields
from diffcore.testing.checks.check import Measurement, NotApplicableError
from diffcore.testing.checks.common import combined, field_prefix, relative_difference, source_location
from diffcore.testing.plugin import PluginUnderTest


def decode_restores(plugin: PluginUnderTest) -> Measurement:
    """decode(encode(x)) differs from x by at most `Contract.tolerance`, as `Contract.restored` measures it.

    What this loses is lost in every sample. A codec without an inverse says so in `Contract.expected_failures`.
    """
    contract = plugin.contract
    if contract.restored is None:
        return Measurement(
            False,
            "the contract has no `restored`, so that nothing compares decoded samples with examples",
            "`restored` and `tolerance` in the contract; where decoding has no inverse, decode_restores among its "
            "expected_failures, with the reason",
            source_location(plugin.codec.decode),
        )
    examples = plugin.examples(64)
    encoded = plugin.encode(examples)
    differences = contract.restored(examples, plugin.decode(encoded.state, encoded.mask))
    largest, count = differences.double().max().item(), len(examples)
    one_each = differences.shape == (count,)
    return Measurement(
        one_each and largest <= contract.tolerance,
        f"decode(encode(x)) differs from x by at most {largest:.3g} over {count} examples"
        if one_each
        else f"`restored` returns the shape {tuple(differences.shape)} for {count} examples",
        f"at most {contract.tolerance:g}, the tolerance of the contract" if one_each else "one number for each example",
        source_location(plugin.codec.decode if one_each else contract.restored),
    )


def encoded_statistics(plugin: PluginUnderTest) -> Measurement:
    """Encoded data have mean 0 in each field, and standard deviation 1 or that of `Contract.std`.

    Noise levels, the scaling of network inputs and the defaults of schedules assume this.
    """
    encoded = plugin.encoded(256)
    counted = fields(plugin.entries_with_noise(encoded.state, encoded.mask))
    measurements = []
    for name, values in fields(encoded.state).items():
        expected = plugin.contract.std.get(name, 1.0)
        numbers = values[counted[name]].double()
        mean, std = numbers.mean().item(), numbers.std(correction=0).item()
        measurements.append(
            Measurement(
                abs(mean) <= 0.2 * expected and 0.75 * expected <= std <= 1.33 * expected,
                f"{field_prefix(name)}mean {mean:.3g}, standard deviation {std:.3g}",
                f"mean 0 within {0.2 * expected:.2g}, "
                f"standard deviation from {0.75 * expected:.3g} to {1.33 * expected:.3g}",
                f"{source_location(plugin.codec.encode)}, or the facts that it scales by",
            )
        )
    return combined(*measurements)


def encoding_invariances(plugin: PluginUnderTest) -> Measurement:
    """encode(T x) = encode(x) for each transform T in `Contract.moved`, up to `Contract.symmetry_tolerance`.

    Encoding is meant to remove what these transforms change, such as the position of a shape.
    """
    contract = plugin.contract
    if not contract.moved:
        raise NotApplicableError("the contract has no transforms in `moved`")
    examples = plugin.examples(32)
    state = plugin.encode(examples).state
    measurements = []
    for name, act in contract.moved.items():
        transform = act(examples, None, generator_for(0, "moved", name))
        transformed = plugin.encode(transform.state(examples)).state  # type: ignore[arg-type]
        difference = relative_difference(transformed, state)
        measurements.append(
            Measurement(
                difference.value <= contract.symmetry_tolerance,
                f"{field_prefix(difference.field)}{name} of the examples changes the encoded state by "
                f"{difference.value:.2g}",
                f"at most {contract.symmetry_tolerance:g} of the largest entry",
                source_location(plugin.codec.encode),
            )
        )
    return combined(*measurements)
