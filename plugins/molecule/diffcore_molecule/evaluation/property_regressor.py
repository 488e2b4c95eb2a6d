"""Properties of generated molecules that only quantum chemistry could compute: a regressor's answer.

It learns from molecules that the generator has never seen, so that the two do not share their mistakes, as in
Hoogeboom et al. 2022. Its own error on molecules that neither has seen stands beside every metric it makes.
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
from diffcore.states.noise import generator_for
from diffcore.system.cache import trained_once
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.data.collection import collect
from diffcore_molecule.data.examples import padded

_STEPS, _BATCH, _RATE = 4000, 64, 1e-3
_LEARNED = 1e-3
"""The error of a batch, in standard deviations, that there is nothing more to learn from."""
_KEPT = 0.1
"""The share of the molecules on which the regressor's own error is measured."""
_RECIPE = "1"
"""Changes when the regressor or its training does, so that old weights are not used."""


class Regressor(nn.Module):
    """Continuous-filter convolutions over all pairs of atoms (Schuett et al. 2017), with bonds: invariant under E(3).

    h_i <- h_i + MLP(sum_j W_l e_ij * V_l h_j), where e_ij are Gaussians of |x_i - x_j| and the order of the bond.
    """

    def __init__(self, outputs: int, width: int = 96, layers: int = 3, radial: int = 28, reach: float = 7.0) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0, reach, radial))
        self._sharpness = (radial / reach) ** 2
        self.atom, self.charge = nn.Embedding(119, width), nn.Embedding(9, width)
        self.filters = nn.ModuleList(nn.Linear(radial + 4, width, bias=False) for _ in range(layers))
        self.values = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.updates = nn.ModuleList(_mlp(width, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.each, self.whole = _mlp(width, outputs), _mlp(width, outputs)

    def forward(self, atoms: TensorDict) -> Tensor:
        """`[B, outputs]` of numbers, charges `[B, N]`, bonds `[B, N, N]`, positions `[B, N, 3]`; 0 pads."""
        numbers = atoms["numbers"].long()
        mask = (numbers > 0).unsqueeze(-1).float()
        distances = (atoms["positions"][:, :, None] - atoms["positions"][:, None]).square().sum(-1).sqrt()
        exponents = self._sharpness * (distances[..., None] - self.centres).square()
        basis = torch.exp(-exponents.clamp(max=20))  # of more they are subnormal numbers, which CPUs are slow at
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
class Oracle:
    """What a regressor takes properties to be."""

    names: tuple[str, ...]
    regressor: nn.Module
    mean: Tensor
    std: Tensor
    mae: dict[str, float]
    """Mean absolute error of each property, on molecules that the regressor has not seen."""
    mean_mae: dict[str, float]
    """The same of a regressor that says the mean of what it learned from, whatever it is asked."""

    def predict(self, molecules: Sequence[Molecule]) -> Tensor:
        """The properties of each molecule `[n, P]`, in the order of `names`."""
        if not molecules:
            return torch.zeros(0, len(self.names))
        return self.predict_examples(padded(collect(molecules), numpy.arange(len(molecules)), hydrogens=True))

    @torch.no_grad()
    def predict_examples(self, examples: TensorDict, batch: int = 100) -> Tensor:
        """The same of examples with fields as a data set has them."""
        device = self.mean.device
        parts = [self.regressor(_trimmed(examples[i : i + batch]).to(device)) for i in range(0, len(examples), batch)]
        return (torch.cat(parts) * self.std + self.mean).cpu()


def _trimmed(examples: TensorDict) -> TensorDict:
    """The same molecules with as little padding as the largest of them needs."""
    most = int((examples["numbers"] > 0).sum(1).max())
    fields = {"numbers": examples["numbers"][:, :most], "charges": examples["charges"][:, :most]}
    fields |= {"bonds": examples["bonds"][:, :most, :most], "positions": examples["positions"][:, :most]}
    return TensorDict(fields, batch_size=examples.batch_size)


def trained_oracle(held_out: TensorDict, names: Sequence[str], cache: Path) -> Oracle:
    """The regressor of these molecules, whose field `properties` `[n, P]` is in the order of `names`; kept in `cache`.

    A tenth of them, drawn with a fixed seed, only measures its error. On the others: 4,000 steps of 64, L1 loss in
    standard deviations, Adam in one cycle. Molecules that lack a value are left out.
    """
    known = held_out[held_out["properties"].isfinite().all(1)]
    kept = max(round(_KEPT * len(known)), 1)
    if len(known) - kept < 2:
        raise UserError(f"a regressor of {', '.join(names)} needs more held-out molecules; there are {len(known)}")
    order = torch.randperm(len(known), generator=generator_for("oracle's split"))
    tested, examples = known[order[:kept]], known[order[kept:]]
    targets = examples["properties"]
    mean, std = targets.mean(0), targets.std(0).clamp(min=1e-12)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        regressor = Regressor(len(names)).to(device)
        path = cache / f"molecule-oracle-{_digest(known)}.safetensors"
        trained_once(regressor, path, lambda: _fit(regressor, examples, (targets - mean) / std, device))
    oracle = Oracle(tuple(names), regressor.eval(), mean.to(device), std.to(device), {}, {})
    errors = (oracle.predict_examples(tested) - tested["properties"]).abs().mean(0).tolist()
    plain = (mean - tested["properties"]).abs().mean(0).tolist()
    return replace(oracle, mae=dict(zip(names, errors, strict=True)), mean_mae=dict(zip(names, plain, strict=True)))


def _digest(examples: TensorDict) -> str:
    total = hashlib.sha256(f"{_RECIPE} {_STEPS}".encode())
    for name in ("numbers", "charges", "bonds", "positions", "properties"):
        total.update(examples[name].contiguous().numpy().tobytes())
    return total.hexdigest()[:24]


def _fit(regressor: nn.Module, examples: TensorDict, targets: Tensor, device: torch.device) -> None:
    optimizer = torch.optim.Adam(regressor.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
    generator = generator_for("oracle")
    regressor.train()
    for _ in range(_STEPS):
        chosen = torch.randint(len(examples), (_BATCH,), generator=generator)
        output = regressor(_trimmed(examples[chosen]).to(device))
        loss = functional.l1_loss(output, targets[chosen].to(device))
        if loss > _LEARNED:
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(regressor.parameters(), 1.0)
            optimizer.step()
        schedule.step()
