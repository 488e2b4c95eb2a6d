"""Muon: an optimiser whose steps are orthogonal matrices, with Adam for what is no matrix."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffcore.names import OptimizerName

MOMENTUM = 0.95
ITERATIONS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonal matrix that is nearest to the momentum; Adam for all other parameters.

    For a matrix W of m rows and n columns with the gradient G_t, and the momentum b = 0.95::

        M_t = b M_(t-1) + (1 - b) G_t
        W   = W - 0.2 sqrt(max(m, n)) lr orthogonal(b M_t + (1 - b) G_t)

    Jordan et al. 2024, with Nesterov's momentum. The factor makes the root mean square of a step about 0.2 lr, as that
    of Adam is, so a learning rate fits both (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2). The
    weight of a convolution is a matrix with a row for each output channel.

    * `network`: the weights of its linear maps and convolutions are matrices; biases, embeddings, scales and other
      parameters are left to Adam.
    * `lr`: the learning rate, a float or a tensor of one number.
    * `adam`: other arguments of `torch.optim.Adam`.

    The state of a parameter has the names that Adam's has: `exp_avg` is the momentum.
    """

    def __init__(self, network: nn.Module, lr: float | Tensor, **adam: Any) -> None:
        self._matrices = matrices(network)
        chosen = {id(weight) for weight in self._matrices}
        others = [weight for weight in network.parameters() if id(weight) not in chosen]
        super().__init__(network.parameters(), {"lr": lr})
        self._adam = torch.optim.Adam(others, lr=lr, **adam)
        self._adam.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change all parameters that have a gradient. There is no `closure`."""
        rate = self.param_groups[0]["lr"]
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        weights = [weight for weight in self._matrices if weight.grad is not None]
        if not weights:
            return
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["exp_avg"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["exp_avg"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        directions = [matrix.flatten(1) for matrix in torch._foreach_lerp(gradients, momenta, MOMENTUM)]
        for weight, direction in zip(weights, orthogonal_each(directions), strict=True):
            weight.sub_(direction.view(weight.shape) * (0.2 * max(direction.shape) ** 0.5 * rate))


def optimizer_of(name: OptimizerName, network: nn.Module, lr: float | Tensor, **adam: Any) -> torch.optim.Optimizer:
    """The optimiser `name` for all parameters of a network; `adam` are other arguments of `torch.optim.Adam`."""
    return Muon(network, lr, **adam) if name == "muon" else torch.optim.Adam(network.parameters(), lr=lr, **adam)


def optimizer_of_moments(names: Iterable[str]) -> OptimizerName:
    """The optimiser that kept moments of these names, `exp_avg/PARAMETER`: Muon keeps no squares for matrices."""
    kept: dict[str, set[str]] = {"exp_avg": set(), "exp_avg_sq": set()}
    for name in names:
        kind, _, parameter = name.partition("/")
        kept.setdefault(kind, set()).add(parameter)
    return "muon" if kept["exp_avg"] - kept["exp_avg_sq"] else "adam"


def matrices(network: nn.Module) -> list[nn.Parameter]:
    """The weights of the linear maps and convolutions of a network, each once."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    weights = [module.get_parameter("weight") for module in network.modules() if isinstance(module, kinds)]
    return [*{id(weight): weight for weight in weights if weight.requires_grad}.values()]


def orthogonal_each(directions: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonal` of each matrix, where those of one shape are computed together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, matrix in enumerate(directions):
        groups.setdefault(tuple(matrix.shape), []).append(number)
    result = [*directions]
    for numbers in groups.values():
        for number, matrix in zip(numbers, orthogonal(torch.stack([directions[i] for i in numbers])), strict=True):
            result[number] = matrix
    return result


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly U V^T of matrices U S V^T `[B, m, n]`, by five iterations of Newton and Schulz.

    Divided by its norm, a matrix has singular values s of at most 1. Each iteration replaces them by
    a s + b s^3 + c s^5, with the coefficients of Jordan et al. 2024, which bring those above 0.005 between 0.67 and
    1.2.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
