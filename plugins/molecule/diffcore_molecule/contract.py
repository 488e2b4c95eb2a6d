"""What the plugin can be held to."""

import numpy
import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.plugins.contract import Contract
from diffcore.plugins.symmetries import permutation, reflection, rotation, translation
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.codec import MoleculeCodec


def contract(codec: MoleculeCodec) -> Contract:
    """Molecules come back, places about their centre; where a molecule lies does not matter.

    Networks do not see where a molecule is, as states have no centre, so they have no translation to respect.
    """
    return Contract(
        restored=_apart,
        tolerance=1e-4,
        std=codec.std,
        symmetries={
            "permutation": permutation("bonds"),
            "rotation": rotation("positions"),
            "reflection": reflection("positions"),
        },
        moved={"translation": translation("positions", scale=3.0)},
    )


def _apart(examples: TensorDict, samples: list[Molecule]) -> Tensor:
    """The largest difference of a coordinate about the centre, Angstrom; infinite where atoms or bonds differ."""
    distances = []
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
        places = examples["positions"][index, :n].float()
        off = torch.from_numpy(molecule.positions) - (places - places.mean(0)) if same else None
        distances.append(torch.inf if off is None else off.abs().max().item())
    return torch.tensor(distances)
