"""The networks on grids `[B, C, height, width]`, made to the size of a space, for plugins to offer as they are."""

from diffcore.errors import UserError
from diffcore.nn.dit import DiT
from diffcore.nn.encoder import Encoder
from diffcore.nn.options import DiTOptions, EncoderOptions, UNetOptions
from diffcore.nn.unet import UNet
from diffcore.states.spaces import Euclidean


def unet(options: UNetOptions, space: Euclidean) -> UNet:
    """A U-Net; raises `UserError` where the grid cannot be folded and halved as often as asked."""
    channels, height, width = space.shape
    _check_sides(height, width, options.patch * 2 ** (len(options.multipliers) - 1), "`denoiser.multipliers`")
    return UNet(channels, **options.model_dump())


def dit(options: DiTOptions, space: Euclidean) -> DiT:
    """A DiT; raises `UserError` where patches do not tile the grid."""
    channels, height, width = space.shape
    _check_sides(height, width, options.patch, "`denoiser.patch`")
    if options.width % options.heads:
        raise UserError(f"`denoiser.heads` {options.heads} does not divide `denoiser.width` {options.width}")
    return DiT(channels, (height, width), **options.model_dump())


def encoder(options: EncoderOptions, space: Euclidean, outputs: int) -> Encoder:
    """Half a U-Net; raises `UserError` where patches do not tile the grid."""
    channels, height, width = space.shape
    if height % options.patch or width % options.patch:
        raise UserError(
            f"grids of {height}x{width} cannot be cut into patches of {options.patch}: change the size of the data or "
            "`classifier.patch`"
        )
    return Encoder(channels, outputs, **options.model_dump())


def _check_sides(height: int, width: int, unit: int, flag: str) -> None:
    if height < unit or width < unit:
        raise UserError(
            f"grids of {height}x{width} are smaller than the network can take: {unit} a side at least; "
            f"make the data larger (`data.size`, where the data set has it), or lower `denoiser.patch` or {flag}"
        )
    if height % unit or width % unit:
        raise UserError(
            f"grids of {height}x{width} cannot be divided as the network needs: sides must be multiples of {unit}; "
            f"change the size of the data (`data.size`, where the data set has it), `denoiser.patch` or {flag}"
        )
