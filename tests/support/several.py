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
from tests.support.runs import PICTURED
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


def main(what, *arguments):
    """Be `diffcore` with these arguments, or with those of each command of a file, with this registry."""
    patch = pytest.MonkeyPatch()
    put_in_place(patch, registry())
    for name in PICTURED:
        patch.setattr(name, 1)  # as `few_pictures` does
    if what == "all":

        def every(argv=None):
            with joined(), cli._log_on_the_screen():
                for command, status in json.loads(Path(arguments[0]).read_text()):
                    assert cli._run(command) == status, command
            return 0

        cli.main = every
    sys.argv[1:] = arguments
    cli.program()


def forked(*words):
    """Do in a fork of torchrun what `main` does in a process of its own: fail and end as that does."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # torchrun handles these, which a fork inherits
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 1
    try:
        main(*words)
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
