"""What each process of `test_distributed` runs: the command line, with the toy and a modality of networks with blocks.

torchrun ... -m tests.support.several command ARGUMENTS   one command, as `python -m diffcore` runs it
torchrun ... -m tests.support.several all FILE            those of a JSON file with the status that each must have
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from diffcore import cli
from diffcore.denoising.conditions import ClassCondition
from diffcore.nn.dit import DiT
from diffcore.nn.unet import UNet
from diffcore.plugins.data import Data, Encoded
from diffcore.plugins.records import Component, Preset, Settings
from diffcore.plugins.registry import Provided
from diffcore.states.spaces import Euclidean
from diffcore.system.distributed import joined, rank
from tests.support.sized_toy import BEADS
from tests.support.toy import TOY, ToyBackbone, ToyData, ToyFacts, put_in_place, toy_registry


class GridNet(Settings):
    learned_variance: bool = False


def bars(options):
    """Grids of 8 x 8 with a bar, lying or standing."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(options.n) % 2
    grids = 0.3 * torch.randn(options.n, 1, 8, 8, generator=generator)
    for index, place in enumerate(torch.randint(8, (options.n,), generator=generator).tolist()):
        grids[index, 0][(place, ...) if label[index] else (..., place)] += 2
    return Data(ToyFacts(), TensorDict({"grid": grids, "label": label}, batch_size=[options.n]))


class BarCodec:
    scale = 1.0
    space = Euclidean((1, 8, 8))
    conditions = (ClassCondition("ring", ("lying", "standing")),)
    sizes = None

    def __init__(self, facts):
        pass

    def encode(self, examples, draws=None):
        grids = examples["grid"]
        if draws is not None:  # an augmentation
            mirrored = draws.uniform("mirror") < 0.5
            grids = torch.where(mirrored[:, None, None, None], grids.flip(3), grids)
        return Encoded(grids, {"ring": examples["label"]})

    def decode(self, state, mask=None):
        return state.flatten(1)


def unet(options, space):
    return UNet(1, width=8, patch=2, attention=True, learned_variance=options.learned_variance)


def dit(options, space):
    return DiT(1, (8, 8), width=24, depth=3, heads=2)


GRIDS = replace(
    TOY,
    name="bars",
    datasets=(Component("bars", "grids with a bar", bars, ToyData),),
    denoisers=(Component("unet", "a small U-Net", unet, GridNet), Component("dit", "a small transformer", dit)),
    classifiers=(),
    presets={"default": Preset("short", {"train": {"batch_size": 16, "evaluate": 20}})},
    codec=BarCodec,
)


class TroubleNet(Settings):
    width: int = 16
    at: int = 3
    fails: bool = False
    dies: bool = False


class Trouble(ToyBackbone):
    """In the second process alone, at the call `at` in training: fails, or gets what Ctrl-C sends."""

    def __init__(self, options):
        super().__init__(options.width, 0.0)
        self.options, self.calls = options, 0

    def forward(self, x, conditioning, mask=None):
        self.calls += self.training
        if rank() == 1 and self.training and self.calls == self.options.at:
            if self.options.dies:
                signal.raise_signal(signal.SIGKILL)
            if self.options.fails:
                raise RuntimeError("trouble in one process")
            signal.raise_signal(signal.SIGINT)
        return super().forward(x, conditioning, mask)


def registry():
    """The toy, also with a troubled network, the bars and the beads."""
    known = toy_registry()
    trouble = Component("trouble", "the MLP, in trouble", lambda options, space: Trouble(options), TroubleNet)
    troubled = replace(TOY, denoisers=(*TOY.denoisers, trouble))
    known.modalities["toy"] = Provided(troubled, "diffcore-toy", "1.0")
    known.modalities["beads"] = Provided(BEADS, "diffcore-beads", "1.0")
    known.modalities["bars"] = Provided(GRIDS, "diffcore-bars", "1.0")
    return known


if __name__ == "__main__":
    put_in_place(pytest.MonkeyPatch(), registry())
    what, *arguments = sys.argv[1:]
    if what == "command":
        sys.exit(cli.main(arguments))
    with joined(), cli._log_on_the_screen():
        for command, status in json.loads(Path(arguments[0]).read_text()):
            assert cli._run(command) == status, command
    # A thread of PyTorch's stores may still run when the interpreter ends, which then aborts a process that has done
    # all of its work.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
