"""Channels of conditions that lie beside the channels of the state."""

from collections.abc import Callable

from torch import Tensor, nn

from diffcore.nn.blocks import zeroed


class BesideState(nn.Module):
    """h + W c: a linear layer W of the channels c beside the state is added to the first layer h of a network.

    * `channels`: how many channels lie beside the state; with 0 there is no layer, and `h` is returned as it is.
    * `layer(channels)`: a new layer without a bias, such as that for the channels of the state. It is initialised to
      zero, so the network is at first the one without these channels.
    * `arrange`: how the state is arranged for its first layer, such as the patches of a grid. The channels beside it
      are arranged in the same way.
    """

    def __init__(
        self,
        channels: int,
        layer: Callable[[int], nn.Linear | nn.Conv2d],
        arrange: Callable[[Tensor], Tensor] = lambda values: values,
    ) -> None:
        super().__init__()
        self.layer = zeroed(layer(channels)) if channels else None
        self.arrange = arrange

    def forward(self, h: Tensor, like_state: Tensor | None) -> Tensor:
        """The first layer `h` to the same shape; unchanged if there is nothing beside the state."""
        return h if self.layer is None or like_state is None else h + self.layer(self.arrange(like_state))
