"""The contract of the plugin: what `diffcore check-plugin` may check beyond what holds for every plugin."""

import numpy
import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.plugins.contract import Contract
from diffcore.plugins.symmetries import permutation, reflection, rotation, translation
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.codec import MoleculeCodec


def contract(codec: MoleculeCodec) -> Contract:
    """Decoding restores molecules, with their centre at the origin; encoding does not depend on translations.

    Translation is not among the symmetries of networks, because states are centred: networks never see a translation.
    """
    return Contract(
        restored=_error,
        tolerance=1e-4,
        std=codec.std,
        symmetries={
            "permutation": permutation("bonds"),
            "rotation": rotation("positions"),
            "reflection": reflection("positions"),
        },
        moved={"translation": translation("positions", scale=3.0)},
    )


def _error(examples: TensorDict, samples: list[Molecule]) -> Tensor:
    """The largest error of a centred coordinate in Angstrom `[n]`; infinite if atoms or bonds differ."""
    errors = []
    for index, molecule in enumerate(samples):
        n = int((examples["numbers"][index] > 0).sum())
        same = len(molecule) == n and all(
            numpy.array_equal(found, wanted.numpy())
            for found, wanted in (
                (molecule.numbers, examples["numbers"][index, :n]),
                (molecule.charges, examples["charges"][index, :n]),
                (molecule.bonds, examples["bonds"][index, :n, :n]),
            )
        )
        positions = examples["positions"][index, :n].float()
        error = torch.from_numpy(molecule.positions) - (positions - positions.mean(0)) if same else None
        errors.append(torch.inf if error is None else error.abs().max().item())
    return torch.tensor(errors)
