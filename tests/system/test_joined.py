"""How the processes that torchrun started end, of which this is one: the messages and who gives them."""

import logging
import signal
import socket

import pytest
import torch.distributed as dist

from diffcore import cli
from diffcore.errors import UserError
from diffcore.system import distributed, heartbeat
from diffcore.system.distributed import joined


@pytest.fixture(autouse=True)
def torchrun(monkeypatch):
    """What torchrun says to the only process; waiting for others is an error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def fail(*arguments, **keywords):
    raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:411")


def test_a_process_that_torchrun_ends_says_why_and_how_to_go_on():
    """torchrun sends SIGTERM as soon as a process has ended, also while the others do work of their own."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError, match=r"another of the 1 processes ended.*diffcore resume"), joined():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_of_several_that_torchrun_ends_one_speaks(monkeypatch):
    monkeypatch.setattr(distributed, "_is_first_to_fail", lambda store, otherwise: False)
    with pytest.raises(SystemExit), joined():
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("leads", "raised"), [(True, KeyboardInterrupt), (False, SystemExit)])
def test_an_interrupt_is_reported_by_the_first_process(monkeypatch, leads, raised):
    monkeypatch.setattr(distributed, "leads", lambda: leads)
    with pytest.raises(raised), joined():
        signal.raise_signal(signal.SIGINT)


def test_a_process_that_ends_before_the_last_one_is_reported(monkeypatch):
    monkeypatch.setattr(dist, "barrier", fail)
    with pytest.raises(UserError, match="another of the 1 processes ended"), joined():
        pass


def test_the_silence_of_the_first_process_is_shown_by_another(monkeypatch, capsys):
    """Only the first process shows other messages."""
    monkeypatch.setenv("RANK", "1")
    with cli._log_on_the_screen():
        heartbeat.logger.warning("process 0 has not answered")
        logging.getLogger("diffcore.api").warning("another message")
    assert capsys.readouterr().err == "process 0 has not answered\n"
