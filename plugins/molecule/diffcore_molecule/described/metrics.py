"""How well molecules are what their sentences ask for."""

from collections.abc import Mapping, Sequence

import torch
from rdkit import Chem
from torch import Tensor

from diffcore.evaluation.attributes import attribute_summary, compared, every, prompt_attributes, with_all
from diffcore.plugins.output import Metric
from diffcore.plugins.wordings import read
from diffcore_molecule.described.judge import judge
from diffcore_molecule.described.sentences import GROUPS, WORDINGS


def prompt_metrics(molecules: Sequence[Chem.Mol | None], sentences: Sequence[str]) -> list[Metric]:
    """The part of the samples, in percent, in which each attribute is right, beside the control.

    Molecules that are None, as they are not valid, are not right in anything that is asked for. `groups` is right if
    all functional groups are present that a sentence names. RDKit writes the sentences and judges the samples, so real
    molecules are right in everything.
    """
    return prompt_attributes(read(sentences, WORDINGS), judge(molecules), score=right)


def prompt_summary(molecules: Sequence[Chem.Mol | None], sentences: Sequence[str]) -> list[str]:
    """A line that says how many molecules are what their sentences ask for; none if no sentence says anything."""
    return attribute_summary(right(read(sentences, WORDINGS), judge(molecules)), "molecules")


def right(asked: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is right, with all functional groups as one attribute."""
    each = compared(asked, found)
    single = {name: each[name] for name in WORDINGS if name not in GROUPS}
    return with_all({**single, "groups": every(torch.stack([each[group] for group in GROUPS], 1))})
