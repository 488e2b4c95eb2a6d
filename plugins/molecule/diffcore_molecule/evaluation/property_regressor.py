"""A regressor that predicts those properties of generated molecules that are computed by quantum chemistry.

As in Hoogeboom et al. 2022, it is trained on molecules that the generator has not seen, so that the errors of the two
are independent. Every metric that uses it comes with its error on molecules that neither of them has seen.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn import functional

from diffcore.errors import UserError
from diffcore.evaluation.effort import steps_to_train
from diffcore.evaluation.trained_once import trained_once
from diffcore.states.global_random import seeded
from diffcore.states.noise import generator_for
from diffcore.system.progress import counter
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.data.collection import collect
from diffcore_molecule.data.examples import padded

_STEPS, _BATCH, _RATE = 4000, 64, 1e-3
_MIN_LOSS = 1e-3
"""Batches with a smaller loss, in standard deviations, are skipped in training."""
_TEST_FRACTION = 0.1
"""The fraction of the molecules on which the error of the regressor is measured."""
_VERSION = "1"
"""Must change when the network or its training changes, so that cached weights of older versions are not used."""


class RegressorNetwork(nn.Module):
    """Continuous-filter convolutions over all pairs of atoms (Schuett et al. 2017), with bonds: invariant under E(3).

    h_i <- h_i + MLP(sum_j W_l e_ij * V_l h_j), where e_ij are Gaussians of |x_i - x_j| and the one-hot bond order.
    """

    def __init__(
        self, outputs: int, width: int = 96, layers: int = 3, radial: int = 28, max_distance: float = 7.0
    ) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0, max_distance, radial))
        self._sharpness = (radial / max_distance) ** 2
        self.atom, self.charge = nn.Embedding(119, width), nn.Embedding(9, width)
        self.filters = nn.ModuleList(nn.Linear(radial + 4, width, bias=False) for _ in range(layers))
        self.values = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.updates = nn.ModuleList(_mlp(width, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.each, self.whole = _mlp(width, outputs), _mlp(width, outputs)

    def forward(self, atoms: TensorDict) -> Tensor:
        """Predictions `[B, outputs]`.

        `atoms` has the fields numbers, charges `[B, N]`, bonds `[B, N, N]` and positions `[B, N, 3]`, padded with 0.
        """
        numbers = atoms["numbers"].long()
        mask = (numbers > 0).unsqueeze(-1).float()
        distances = (atoms["positions"][:, :, None] - atoms["positions"][:, None]).square().sum(-1).sqrt()
        exponents = self._sharpness * (distances[..., None] - self.centres).square()
        basis = torch.exp(-exponents.clamp(max=20))  # beyond that results are subnormal, which is slow on CPUs
        others = mask[:, None] * (1 - torch.eye(numbers.shape[1], device=mask.device))[..., None]
        pairs = torch.cat([basis, functional.one_hot(atoms["bonds"].long(), 4)], -1) * others
        h = self.atom(numbers) + self.charge(atoms["charges"].long().clamp(-4, 4) + 4)
        for filters, values, update, norm in zip(self.filters, self.values, self.updates, self.norms, strict=True):
            h = h + update((filters(pairs) * values(norm(h))[:, None]).sum(2))
        h = h * mask
        return (self.each(h) * mask).sum(1) / 10 + self.whole(h.sum(1) / mask.sum(1))


def _mlp(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs))


@dataclass(frozen=True)
class PropertyRegressor:
    """A trained network that predicts properties of molecules, and its errors."""

    names: tuple[str, ...]
    network: nn.Module
    mean: Tensor
    """Mean `[P]` of the properties of the training molecules."""
    std: Tensor
    """Standard deviation `[P]`, the unit of the network's outputs."""
    mae: dict[str, float]
    """Mean absolute error of each property, on molecules that the regressor has not seen."""
    mean_mae: dict[str, float]
    """The same error if the mean of the training molecules is predicted for every molecule."""

    def predict(self, molecules: Sequence[Molecule]) -> Tensor:
        """Predicted properties of each molecule `[n, P]`, in the order of `names`."""
        if not molecules:
            return torch.zeros(0, len(self.names))
        return self.predict_examples(padded(collect(molecules), numpy.arange(len(molecules)), hydrogens=True))

    @torch.no_grad()
    def predict_examples(self, examples: TensorDict, batch: int = 100) -> Tensor:
        """Predicted properties `[n, P]` of examples with the fields of a data set."""
        device = self.mean.device
        parts = [self.network(_trimmed(examples[i : i + batch]).to(device)) for i in range(0, len(examples), batch)]
        return (torch.cat(parts) * self.std + self.mean).cpu()


def _trimmed(examples: TensorDict) -> TensorDict:
    """The same molecules, padded only to the size of the largest one."""
    most = int((examples["numbers"] > 0).sum(1).max())
    fields = {"numbers": examples["numbers"][:, :most], "charges": examples["charges"][:, :most]}
    fields |= {"bonds": examples["bonds"][:, :most, :most], "positions": examples["positions"][:, :most]}
    return TensorDict(fields, batch_size=examples.batch_size)


def trained_regressor(held_out: TensorDict, names: Sequence[str], cache: Path) -> PropertyRegressor:
    """A regressor trained on the molecules `held_out`, or its weights from `cache`.

    The field `properties` `[n, P]` must be in the order of `names`; molecules with a missing value are left out. A
    tenth of the molecules, drawn with a fixed seed, is used only to measure the error. Training on the others takes
    4,000 steps of 64 molecules with the L1 loss in standard deviations, Adam, and a one-cycle learning rate.
    Raises `UserError` if there are fewer than 3 molecules.
    """
    known = held_out[held_out["properties"].isfinite().all(1)]
    n_test = max(round(_TEST_FRACTION * len(known)), 1)
    if len(known) - n_test < 2:
        raise UserError(
            f"the regressor of {', '.join(names)} needs at least 3 held-out molecules with these properties; "
            f"there are {len(known)}"
        )
    # The names of random streams decide what is drawn, so they stay as they are.
    order = torch.randperm(len(known), generator=generator_for("oracle's split"))
    tested, examples = known[order[:n_test]], known[order[n_test:]]
    targets = examples["properties"]
    mean, std = targets.mean(0), targets.std(0).clamp(min=1e-12)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with seeded(0):
        network = RegressorNetwork(len(names)).to(device)
        path = cache / f"molecule-property-regressor-{_digest(known)}.safetensors"
        trained_once(network, path, lambda: _fit(network, examples, (targets - mean) / std, device))
    regressor = PropertyRegressor(tuple(names), network.eval(), mean.to(device), std.to(device), {}, {})
    mae = (regressor.predict_examples(tested) - tested["properties"]).abs().mean(0).tolist()
    mean_mae = (mean - tested["properties"]).abs().mean(0).tolist()
    return replace(regressor, mae=dict(zip(names, mae, strict=True)), mean_mae=dict(zip(names, mean_mae, strict=True)))


def _digest(examples: TensorDict) -> str:
    total = hashlib.sha256(f"{_VERSION} {steps_to_train(_STEPS)}".encode())
    for name in ("numbers", "charges", "bonds", "positions", "properties"):
        total.update(examples[name].contiguous().numpy().tobytes())
    return total.hexdigest()[:24]


def _fit(network: nn.Module, examples: TensorDict, targets: Tensor, device: torch.device) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
    steps = steps_to_train(_STEPS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    generator = generator_for("oracle")
    network.train()
    with counter("preparing the evaluation", steps) as after_step:
        for _ in range(steps):
            chosen = torch.randint(len(examples), (_BATCH,), generator=generator)
            output = network(_trimmed(examples[chosen]).to(device))
            loss = functional.l1_loss(output, targets[chosen].to(device))
            if loss > _MIN_LOSS:
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
            schedule.step()
            after_step(1)
