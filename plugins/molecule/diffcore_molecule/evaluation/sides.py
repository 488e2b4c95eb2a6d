"""Metrics of joint states of a molecule and its properties: one side that was drawn given the other."""

from collections.abc import Mapping, Sequence

import numpy
from torch import Tensor

from diffcore.plugins.output import Metric
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.options import MoleculeFacts, PropertyFacts


def drawn_values(samples: Sequence[Molecule], real: Sequence[Molecule], facts: Sequence[PropertyFacts]) -> list[Metric]:
    """The errors of properties that were drawn for the real molecules, beside those of their mean.

    A draw has the spread of p(value | molecule): if it is one number to the model, the error is that of a prediction,
    and otherwise larger than that of a mean of several draws.
    """
    metrics = []
    for item in facts:
        drawn, true = (numpy.array([each.properties[item.name] for each in group]) for group in (samples, real))
        unit = f" {item.unit}" if item.unit else ""
        metrics += [
            Metric(
                f"properties_{item.name}_mae",
                float(numpy.abs(drawn - true).mean()),
                f"mean absolute error{unit} of values that were drawn for {len(real)} real molecules, one draw each",
            ),
            Metric(
                f"properties_{item.name}_mean_mae",
                float(numpy.abs(item.mean - true).mean()),
                "the same if the mean of the training molecules is predicted for all",
            ),
        ]
    return metrics


def obtained_values(
    found: Mapping[str, Tensor],
    real: Sequence[Molecule],
    facts: MoleculeFacts,
    errors: Mapping[str, float],
) -> list[Metric]:
    """The errors between the values of real molecules and those of molecules that were drawn for them.

    `found` are the values of the drawn molecules, nan where they have none, and `errors` those of the regressor that
    has measured them. Beside them is the error for the values of other molecules, in a fixed random order, and that of
    molecules that match the real ones in size only.
    """
    metrics = []
    for item in facts.joint:
        if item.name not in found:
            continue
        true, measured = numpy.array([each.properties[item.name] for each in real]), found[item.name].numpy()
        known = numpy.isfinite(measured)
        if not known.any():
            continue
        order = numpy.random.default_rng(0).permutation(len(true))
        unit = f" {item.unit}" if item.unit else ""
        judged = f", measured by a regressor with an error of {errors[item.name]:.4g}" if item.name in errors else ""
        meaning = f"mean absolute error{unit} of valid molecules that were drawn for the values of real ones{judged}"
        of_size = dict(zip(facts.sizes, (mean for mean, _ in item.by_size), strict=True))
        guess = numpy.array([of_size.get(len(each), item.mean) for each in real])
        shuffled = numpy.abs(measured - true[order])[known].mean()
        metrics += [
            Metric(f"molecule_{item.name}_mae", float(numpy.abs(measured - true)[known].mean()), meaning),
            Metric(
                f"molecule_{item.name}_mae_shuffled",
                float(shuffled),
                "the same for molecules that were drawn for other values",
            ),
            Metric(
                f"molecule_{item.name}_mae_size_only",
                float(numpy.abs(guess - true).mean()),
                "bound: the values against the mean of training molecules of the same size",
            ),
        ]
    return metrics
