"""Several processes joined by gloo, as forks of this one: they need not import PyTorch again."""

import importlib
import multiprocessing
import os
import socket
import sys
import traceback

import pytest
import torch

from diffcore import cli
from diffcore.system.distributed import joined
from tests.support.several import registry
from tests.support.toy import put_in_place

for module in (
    "diffcore.cli.evaluate",
    "diffcore.cli.sample",
    "diffcore.cli.train",
    "diffcore.api.resuming",
    "diffcore.api.training",
    "diffcore.training.sharded_checkpointing",
    "torch.distributed.checkpoint.hf_storage",
    "torch.distributed.checkpoint.state_dict_loader",
    "torch.distributed.checkpoint.state_dict_saver",
):
    importlib.import_module(module)  # once, and not in each process

needs_forks = pytest.mark.skipif(torch.cuda.is_available(), reason="a process that has used a GPU cannot be forked")


def forked(count, said, do):
    """Call `do` in each of `count` processes, and return what they said; raise AssertionError if one of them fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    said.write_text("")
    processes = [context.Process(target=_be, args=(number, count, port, said, do)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        if process.is_alive():
            process.kill()
    text = said.read_text()
    assert [process.exitcode for process in processes] == [0] * count, text
    return text


def _be(number, count, port, said, do):
    """Be one of the processes, as torchrun would start it."""
    surroundings = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in surroundings.items()} | {"MASTER_ADDR": "127.0.0.1"}
    with said.open("a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        status = 1
        try:
            put_in_place(pytest.MonkeyPatch(), registry())
            with joined(), cli._log_on_the_screen():
                do()
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
