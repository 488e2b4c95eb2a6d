"""What a latent text-to-image model on very many pictures would need: parameters, operations, hours, bytes.

    python tests/benchmarks/large_plan.py [--pictures 1e8] [--side 256] [--batch 1024] [--steps 500000] [--tflops 95]

The networks are built on the meta device, so nothing large is in memory: a `dit` on latents of the autoencoder `grid`,
with tokens of texts, at a size that published models of this kind have. Their parameters, floating-point operations
(`torch.utils.flop_counter`) and the tensors that a backward pass keeps are counted. The rest is arithmetic: operations
divided by a rate, bytes divided by a bandwidth. --tflops is what a GPU does of them per second; 86 to 108 TFLOP/s were
measured on an H100 in bfloat16 for the large networks of the presets (docs/scaling.md). Prints Markdown.
"""

import argparse

import torch
from torch.utils.flop_counter import FlopCounterMode

from diffcore.denoising.inputs import Tokens
from diffcore.nn.dit import DiT
from diffcore.nn.grid_autoencoder import GridAutoencoder

GIGA, TERA = 1e9, 1e12


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=float, default=1e8)
    parser.add_argument("--side", type=int, default=256, help="of a picture, in pixels")
    parser.add_argument("--factor", type=int, default=8, help="of the autoencoder")
    parser.add_argument("--latent", type=int, default=4, help="channels of the latent")
    parser.add_argument("--autoencoder-width", type=int, default=128)
    parser.add_argument("--width", type=int, default=1152)
    parser.add_argument("--depth", type=int, default=28)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=77, help="of a text")
    parser.add_argument("--text-channels", type=int, default=768, help="of a token")
    parser.add_argument("--text-parameters", type=float, default=123e6, help="of the frozen text encoder")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--tflops", type=float, default=95.0)
    parser.add_argument("--bandwidth", type=float, default=50.0, help="GB/s between two machines of eight GPUs")
    parser.add_argument("--jpeg", type=float, default=30e3, help="bytes of a picture as a file")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    return parser.parse_args()


def operations(function, *arguments, **keywords) -> float:
    """The floating-point operations of a call."""
    with FlopCounterMode(display=False) as counter:
        function(*arguments, **keywords)
    return float(counter.get_total_flops())


def kept_bytes(function, *arguments, **keywords) -> int:
    """The bytes of the tensors that a call keeps for its backward pass, each counted once, without the weights."""
    weights = {each.untyped_storage()._cdata for each in function.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            held[storage._cdata] = storage  # held, so that no other one gets its number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        function(*arguments, **keywords)
    return sum(storage.nbytes() for storage in held.values())


def main() -> None:
    """Count, and print."""
    options = parse()
    cells = options.side // options.factor
    with torch.device("meta"):
        network = DiT(
            options.latent, (cells, cells), options.patch, options.width, options.depth, options.heads,
            tokens=options.text_channels,
        )  # fmt: skip
        encoder = GridAutoencoder(
            3, (options.side, options.side), options.factor, options.latent, options.autoencoder_width, patch=2
        )
        x, conditioning = torch.empty(1, options.latent, cells, cells), torch.empty(1, options.width)
        text = Tokens(
            torch.empty(1, options.tokens, options.text_channels), torch.ones(1, options.tokens, dtype=torch.bool)
        )
        forward = operations(network, x, conditioning, tokens=text)
        kept = kept_bytes(network, x, conditioning, tokens=text) / 2  # bfloat16
        encoding = operations(encoder.encode, torch.empty(1, 3, options.side, options.side))
    parameters = sum(each.numel() for each in network.parameters())
    texts = 2 * options.text_parameters * options.tokens
    examples = options.batch * options.steps
    step = 3 * forward + texts
    epochs = examples / options.pictures
    token_bytes = 2 * options.tokens * options.text_channels
    latent_bytes = 2 * options.latent * cells**2
    rows = [
        ("parameters of the denoiser", f"{parameters / 1e6:.0f} M"),
        ("operations of a forward pass, one picture", f"{forward / GIGA:.0f} GFLOP"),
        ("the same of a training step, with the frozen text encoder", f"{step / GIGA:.0f} GFLOP"),
        (f"pictures in {options.steps:,} steps of {options.batch:,}", f"{examples:.3g}, {epochs:.1f} epochs"),
        ("all steps", f"{examples * step:.2g} FLOP"),
        ("encoding all pictures once", f"{encoding / GIGA:.0f} GFLOP each, {options.pictures * encoding:.2g} FLOP"),
        ("weights, gradients, Adam's moments and average (20 bytes)", f"{20 * parameters / GIGA:.1f} GB"),
        ("kept for the backward pass, one picture, bfloat16", f"{kept / GIGA:.2f} GB"),
        ("files of pictures", f"{options.pictures * options.jpeg / TERA:.1f} TB"),
        (f"pixels, uint8, {options.side}x{options.side}", f"{options.pictures * 3 * options.side**2 / TERA:.1f} TB"),
        ("latents, bfloat16", f"{options.pictures * latent_bytes / TERA:.2f} TB"),
        ("tokens of all texts, bfloat16", f"{options.pictures * token_bytes / TERA:.0f} TB"),
    ]  # fmt: skip
    print("| | |\n|---|---|")
    print("\n".join(f"| {name} | {value} |" for name, value in rows))
    print("\n| GPUs | days of training | hours of encoding | pictures/s | latents read, MB/s | gradients sent |")
    print("|---|---|---|---|---|---|")
    for count in options.gpus:
        rate = count * options.tflops * TERA
        speed = rate / step
        machines = max(1, count // 8)
        sent = 2 * (machines - 1) / machines * 4 * parameters / (options.bandwidth * GIGA)
        share = sent / (options.batch / speed)
        shown = f"{sent * 1e3:.0f} ms of a step of {options.batch / speed * 1e3:.0f} ms" if share else "none"
        print(
            f"| {count} | {examples * step / rate / 86400:.1f} | {options.pictures * encoding / rate / 3600:.1f} "
            f"| {speed:,.0f} | {speed * latent_bytes / 1e6:.1f} | {shown} |"
        )


if __name__ == "__main__":
    main()
