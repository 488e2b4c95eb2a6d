"""Noisy classifiers: networks that predict conditions from a noisy state, for classifier guidance."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from diffcore.denoising.conditions import Condition, Conditions
from diffcore.denoising.denoiser import at_unit_variance, log_snr_of, with_data_std
from diffcore.denoising.embedding import Conditioning
from diffcore.denoising.heads import Head
from diffcore.denoising.precision import computed
from diffcore.errors import UserError
from diffcore.names import Precision
from diffcore.states.categories import entrywise_expectations
from diffcore.states.form import form_difference
from diffcore.states.level import Levels
from diffcore.states.spaces import Mask
from diffcore.states.state import State, first_field


class ClassifierBackbone(Protocol):
    """A network: takes a state of unit variance, a conditioning vector `[B, width]` and a mask, returns `[B, outputs]`.

    `width` is the length of the conditioning vector that the network wants.
    """

    width: int

    def __call__(self, x: State, conditioning: Tensor, mask: Mask = None) -> Tensor: ...


def heads_of(conditions: Sequence[Condition]) -> dict[str, Head]:
    """The heads of the conditions by name. Raises `UserError` if a condition has none."""
    heads = {condition.name: condition.head for condition in conditions}
    if lacking := [name for name, head in heads.items() if head is None]:
        raise UserError(f"a classifier cannot predict the condition {lacking[0]!r}, which has no `head`")
    return cast(dict[str, Head], heads)


class NoisyClassifier(nn.Module):
    """p(c | x_t): a network (backbone) that predicts the conditions c from the noisy state and the log-SNR.

    The backbone's output `[B, outputs]` is the concatenation of the outputs for each condition, in the order of
    `conditions`. The head of a condition defines how many outputs it has and what they mean (`Condition.head`). The
    backbone receives the state at unit variance and an embedding of the log-SNR, as that of a `Denoiser` does, so a
    trained classifier works with any schedule, solver and time grid.

    * `backbone`: a module with the signature of `ClassifierBackbone`; it may have `views`, of which only `Categories`
      count here.
    * `conditions`: the conditions that it predicts.
    * `data_std`: the standard deviation of the data.
    * `level_fields`: the names of all fields of the state if they may have levels of their own, as in a `Denoiser`.

    Raises `UserError` for a condition without a head.
    """

    def __init__(
        self,
        backbone: nn.Module,
        conditions: tuple[Condition, ...],
        data_std: float = 1.0,
        level_fields: str | Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.conditioning = Conditioning((), cast(ClassifierBackbone, backbone).width, level_fields=level_fields)
        self.conditions = conditions
        self.heads = heads_of(conditions)
        self.data_std = data_std
        self.views: Mapping[str, Any] = getattr(backbone, "views", {})
        self.precision: Precision = "float32"

    def forward(self, x: State, level: Levels, mask: Mask = None) -> dict[str, Tensor]:
        """The outputs for each condition, `[B, outputs]` by name, for `x` at `level` (floats, or tensors `[B]`)."""
        batch, device = x.shape[0], first_field(x).device
        inner = with_data_std(level, self.data_std)
        conditioning, *_ = self.conditioning(log_snr_of(inner, batch, device), {})
        scaled, unit = at_unit_variance(x, inner)
        output = computed(
            self.backbone, self.precision, entrywise_expectations(self.views, scaled, unit), conditioning, mask
        )
        sizes = {name: head.outputs for name, head in self.heads.items()}
        if difference := form_difference(output, {"": (batch, sum(sizes.values()))}):
            network = type(self.backbone).__name__
            raise UserError(f"the output of the network {network} does not fit the conditions: {difference}")
        return dict(zip(sizes, output.split([*sizes.values()], dim=1), strict=True))

    def log_likelihood(self, x: State, level: Levels, conditions: Conditions | None, mask: Mask = None) -> Tensor:
        """log p(c | x_t), `[B]` nats, summed over the conditions that are given.

        It is the log-weight with which `energy` gives classifier guidance (Dhariwal & Nichol 2021). The training loss
        is its negative mean over the noise levels of a schedule.
        """
        outputs = self(x, level, mask)
        terms = [
            head.log_likelihood(outputs[name], conditions[name])
            for name, head in self.heads.items()
            if conditions and name in conditions
        ]
        return torch.stack(terms).sum(0) if terms else first_field(x).new_zeros(x.shape[0])
