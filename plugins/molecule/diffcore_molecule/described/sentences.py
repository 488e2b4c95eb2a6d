"""What RDKit knows of molecules to sentences, such as "an aromatic amine with two rings"."""

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from diffcore.plugins.wordings import one_of, said, with_article

GROUPS: Mapping[str, str] = {
    "carboxylic acid": "[CX3](=O)[OX2H]",
    "ester": "[CX3](=O)[OX2][#6]",
    "amide": "[CX3](=O)[NX3]",
    "nitrile": "[CX2]#N",
    "aldehyde": "[CX3H1](=O)[#6]",
    "ketone": "[#6][CX3](=O)[#6]",
    "alcohol": "[OX2H][CX4]",
    "amine": "[NX3;!$(N-C=[O,N,S]);!$(N-[!#6;!#1])]",
    "ether": "[#6;!$(C=O)][OX2][#6;!$(C=O)]",
    "alkyne": "[CX2]#[CX2]",
    "alkene": "[CX3]=[CX3]",
}
"""The SMARTS patterns of functional groups. The first one that a molecule has is its noun."""

WORDINGS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "aromatic": {"no": ("aliphatic", "non-aromatic"), "yes": ("aromatic",)},
    "rings": {
        "none": ("acyclic", "no rings"),
        "one": ("monocyclic", "one ring"),
        "two": ("bicyclic", "two rings"),
        "more": ("polycyclic", "several rings"),
    },
    "nitrogen": {"none": ("no nitrogen",), "one": ("one nitrogen",), "more": ("several nitrogens",)},
    "oxygen": {"none": ("no oxygen",), "one": ("one oxygen",), "more": ("several oxygens",)},
    **{group: {"present": (group, f"{group} group")} for group in GROUPS},
}
"""What is said of a molecule, and how. A functional group is only said where it is present."""

LEFT_OUT = 0.3
"""How often something is not said, so that sentences also say little."""

_OPENINGS = ("", "", "", "there is", "a structure of")
_NOUNS = ("molecule", "compound")


def write(values: Mapping[str, Tensor], generator: Generator, complete: bool = False) -> list[str]:
    """A sentence for each molecule, with the wording drawn at random.

    With `complete`, every sentence says all that there is to say.
    """
    rows = said(values, WORDINGS, generator, 0.0 if complete else LEFT_OUT)
    drawn = torch.rand(len(rows), 2, generator=generator).tolist()
    return [_sentence(row, *u) for row, u in zip(rows, drawn, strict=True)]


def _sentence(words: Mapping[str, str], opening: float, noun: float) -> str:
    """One sentence of the wordings of attributes; its choices take the two numbers in [0, 1)."""
    groups = [group for group in GROUPS if group in words]
    rings = words.get("rings", "")
    before = [words[name] for name in ("aromatic",) if name in words] + [rings] * rings.endswith("cyclic")
    kind = groups[0] if groups else one_of(_NOUNS, noun)
    behind = [rings] * (bool(rings) and not rings.endswith("cyclic"))
    behind += [words[name] for name in ("nitrogen", "oxygen") if name in words]
    behind += [with_article(f"{group} group") for group in groups[1:]]
    listed = " and ".join([*filter(None, (", ".join(behind[:-1]),)), *behind[-1:]])
    ending = f" with {listed}" if behind else ""
    return f"{one_of(_OPENINGS, opening)} {with_article(' '.join([*before, kind]))}{ending}".strip()
