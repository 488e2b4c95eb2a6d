"""The networks of `diffcore.nn`, made to the size of the images."""

from diffcore.errors import UserError
from diffcore.nn.dit import DiT
from diffcore.nn.unet import UNet
from diffcore.spaces import Euclidean
from diffcore_image.options import DiTOptions, UNetOptions


def unet(options: UNetOptions, space: Euclidean) -> UNet:
    """A U-Net; raises `UserError` where the image cannot be folded and halved as often as asked."""
    channels, height, width = space.shape
    _check_sides(height, width, options.patch * 2 ** (len(options.multipliers) - 1), "--denoiser.multipliers")
    return UNet(channels, **options.model_dump())


def dit(options: DiTOptions, space: Euclidean) -> DiT:
    """A DiT; raises `UserError` where patches do not tile the image."""
    channels, height, width = space.shape
    _check_sides(height, width, options.patch, "--denoiser.patch")
    if options.width % options.heads:
        raise UserError(f"--denoiser.heads {options.heads} does not divide --denoiser.width {options.width}")
    return DiT(channels, (height, width), **options.model_dump())


def _check_sides(height: int, width: int, unit: int, flag: str) -> None:
    if height < unit or width < unit:
        raise UserError(
            f"images of {height}x{width} are smaller than the network can take: {unit} pixels a side at least; "
            f"make them larger with --data.size, or lower --denoiser.patch or {flag}"
        )
    if height % unit or width % unit:
        raise UserError(
            f"images of {height}x{width} cannot be divided as the network needs: sides must be multiples of {unit}; "
            f"change --data.size, --denoiser.patch or {flag}"
        )
