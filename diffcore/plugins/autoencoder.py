"""What an autoencoder is to the core: the network of the task `encode`, in whose latents other runs diffuse."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from diffcore.states.noise import Draws
from diffcore.states.spaces import Mask, Space, space_of
from diffcore.states.state import State, fields


class Autoencoder(Protocol):
    """An `nn.Module` from states of a codec to latents and back.

    The core adds noise to latents in training, measures their mean and standard deviation, and diffuses in them, so an
    autoencoder needs no scale of its own. Batch first; `mask` is that of the state, and where it is given, latents have
    the same elements as the state.

    The decoder should take no statistics over a grid and attend to no distant place, so that a large sample can be
    decoded in tiles. It computes in float32.
    """

    space: Space
    """The space of the latents."""

    channel_axis: int
    """The axis of the channels in each field of a batch of latents. Statistics are those of each channel."""

    def encode(self, state: State, mask: Mask = None) -> State:
        """States `[B, ...]` to latents `[B, ...]`, without random numbers."""

    def decode(self, latent: State, mask: Mask = None) -> State:
        """Latents to states, or to what `state_of` makes states of."""

    def state_of(self, decoded: State, mask: Mask = None) -> State:
        """The states that the result of `decode` means, such as points of categories for their logits.

        Optional: without it, the result of `decode` is a state.
        """

    def losses(self, decoded: State, state: State, mask: Mask = None) -> Mapping[str, Tensor]:
        """The loss of each example by the name of the field, `[B]`, between the result of `decode` and the true state.

        Optional: without it, it is the squared error per degree of freedom, `squared_errors`.
        """

    def transform(self, state: State, latent: State, draws: Draws) -> tuple[State, State]:
        """A random transform of each example, applied to its state and, in the same way, to its latent.

        With the option `equivariance` of the task, the decoder learns to decode the one to the other. Optional: only
        where the data have such transforms, such as turns of a grid, whose names are in the attribute `transforms`. All
        examples of a batch may have the same.
        """


def losses_of(
    autoencoder: Autoencoder, decoded: State, state: State, space: Space, mask: Mask = None
) -> dict[str, Tensor]:
    """The losses of reconstruction of each example by field, `[B]`: the autoencoder's own, or the squared errors."""
    own = getattr(autoencoder, "losses", None)
    return squared_errors(decoded, state, space, mask) if own is None else dict(own(decoded, state, mask))


def squared_errors(decoded: State, state: State, space: Space, mask: Mask = None) -> dict[str, Tensor]:
    """|decoded - state|^2 of each field and each example, by name, `[B]`, per degree of freedom of the whole state."""
    found, freedoms = fields(decoded), space.degrees_of_freedom(state, mask).clamp(min=1)
    return {
        name: space_of(space, name).squared_norm(found[name] - value, mask) / freedoms
        for name, value in fields(state).items()
    }
