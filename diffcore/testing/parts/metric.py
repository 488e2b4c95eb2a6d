"""The contract of metrics: named numbers with meanings, of real examples and of any samples, and the same again."""

from diffcore.testing.checks.check import Check, Measurement
from diffcore.testing.checks.common import combined
from diffcore.testing.checks.evaluation import examined, metrics_measurement
from diffcore.testing.parts.part import PartUnderTest, built


def builds(part: PartUnderTest) -> Measurement:
    """The builder takes the options, a codec and data, and returns a function of samples and conditions."""
    return built(part, part.modality.codec, part.modality.data)


def measures(part: PartUnderTest) -> Measurement:
    """There are metrics of real examples and of samples of an untrained network, each with a number and a meaning."""
    metric = part.build(part.modality.codec, part.modality.data)
    found = [
        metrics_measurement(metric(samples, conditions), f"metrics of {what}", part.where)
        for what, samples, conditions in examined(part.modality)
    ]
    return combined(*found)


def repeats(part: PartUnderTest) -> Measurement:
    """The same samples have the same metrics again."""
    values = []
    for _ in range(2):
        metric = part.build(part.modality.codec, part.modality.data)
        _, samples, conditions = next(iter(examined(part.modality)))
        values.append({found.name: found.value for found in metric(samples, conditions)})
    differ = [name for name, value in values[0].items() if repr(value) != repr(values[1].get(name))]
    measured = "; ".join(f"{name}: {values[0][name]:.6g}, then {values[1].get(name)}" for name in differ)
    return Measurement(not differ, measured or "the same values again", "the same values again", part.where)


CHECKS = (
    Check("builds", "the builder returns a function of samples and conditions", builds),
    Check("measures", "there are metrics of any samples", measures, ("builds",)),
    Check("repeats", "the same samples have the same metrics", repeats, ("builds", "measures")),
)
