"""Several processes that train or draw as one.

`torchrun --nproc-per-node N -m -- diffcore COMMAND ...` starts N copies of a command, and each joins the others here.
The first is the leader: it alone writes files and messages. Without torchrun there is one process, and nothing here has
a cost or an effect.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from diffcore.errors import UserError
from diffcore.system.heartbeat import heartbeats

Value = TypeVar("Value")

PATIENCE = timedelta(hours=6)
"""How long a process waits for the others, as while the leader prepares the evaluation. torchrun ends those that
wait for one that has failed."""


GRACE = 10.0
"""Seconds that other failing processes wait, so that the first one can report its error before torchrun ends all."""


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def machines() -> int:
    """On how many machines they are, as torchrun says."""
    return max(1, world() // int(os.environ.get("LOCAL_WORLD_SIZE", world())))


def leads() -> bool:
    """Whether this is the process that writes files and messages."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that torchrun started, until the context ends.

    Tensors on GPUs travel by NCCL, each process having the GPU of its local rank; those on CPUs by gloo. Of failures,
    the first is raised; processes that fail after it, be it for want of the one that failed, end without a word. A
    process that ends without an exception, such as one that is killed, is reported by a `UserError` of another one,
    also if torchrun ends that one by SIGTERM. An interrupt (Ctrl-C) is raised in the leader; the others end.
    """
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    store, number, count = next(rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo", store=store, rank=number, world_size=count, timeout=PATIENCE
    )
    try:
        with heartbeats(store.clone(), number, count), _told_of_termination():
            yield
            # A thread of gloo frees the tensors of the last collective after it has ended, for which it needs the
            # interpreter. Without the barrier the interpreter may already be shutting down, and the process aborts.
            dist.barrier()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            if not leads():
                raise SystemExit(1) from None  # the leader received it, too, and reports it
            _is_first_to_fail(store)
            raise
        if reason := _of_another(error, count):
            if not _is_first_to_fail(store, otherwise=True):
                raise SystemExit(1) from None
            raise UserError(f"{reason}. Continue training from the last checkpoint with diffcore resume") from None
        if not _is_first_to_fail(store):
            time.sleep(GRACE)  # torchrun ends all when one does: the first shall have spoken by then
            raise SystemExit(1) from None
        raise
    dist.destroy_process_group()


class _TerminatedError(BaseException):
    """This process received SIGTERM. It is no `Exception`, as it must not be taken for a failure of a plugin."""


@contextmanager
def _told_of_termination() -> Iterator[None]:
    """Raise `_TerminatedError` for a SIGTERM, by which torchrun ends the other processes when one has ended.

    During training, `diffcore.training.signals` replaces this handler.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise _TerminatedError

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _of_another(error: BaseException, count: int) -> str | None:
    """What happened to another one of the `count` processes, if that is why this one ends."""
    if isinstance(error, _TerminatedError):
        return (
            f"torchrun ends this process, because another of the {count} processes ended, which it reports below, or "
            "because it was asked to stop"
        )
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "ncclRemoteError")
    if isinstance(error, dist.DistError | RuntimeError) and any(sign in str(error) for sign in signs):
        return f"another of the {count} processes ended or lost its connection; torchrun reports below which one"
    return None


def _is_first_to_fail(store: Any, otherwise: bool = False) -> bool:
    """Whether no other process has called this; `otherwise` if that is not known."""
    try:
        return store.add("diffcore failed", 1) == 1
    except (RuntimeError, ValueError):  # the process that held the store is gone
        return otherwise


def rank_slice(n: int) -> range:
    """The part of `n` things that this process works on: consecutive ones. Sizes of parts differ by at most one."""
    return shares_of(n)[rank()]


def shares_of(n: int) -> list[range]:
    """The parts of `n` things that each process works on, as `rank_slice`."""
    return [range(n * number // world(), n * (number + 1) // world()) for number in range(world())]


def by_leader(make: Callable[[], Value]) -> Value | None:
    """Call `make` in the leader only, and return its result there; the other processes wait for it and return None.

    A `UserError` that it raises is raised in all processes.
    """
    own = _attempted(make) if leads() else None
    if world() > 1:
        refusal = [own if isinstance(own, UserError) else None]
        dist.broadcast_object_list(refusal, src=0)
        _unless_refused(refusal[0])
    return _unless_refused(own)


def from_leader(make: Callable[[], Value]) -> Value:
    """Call `make` in the leader only, and return its result in all processes."""
    shared: list[Any] = [by_leader(make)]
    if world() > 1:
        dist.broadcast_object_list(shared, src=0)
    return shared[0]


def in_turn(make: Callable[[], Value]) -> Value:
    """Call `make` in each process, first in the leader: what it stores in the cache is then there for the others."""
    own = by_leader(make)
    return own if leads() else make()  # type: ignore[return-value]


def gathered(make: Callable[[], Value]) -> list[Value]:
    """Call `make` in each process. The leader gets the results of all, in their order; the others get their own.

    A `UserError` of any process is raised in all.
    """
    own = _attempted(make)
    if world() == 1:
        return [_unless_refused(own)]
    refusals: list[Any] = [None] * world()
    dist.all_gather_object(refusals, own if isinstance(own, UserError) else None)
    for refusal in refusals:
        _unless_refused(refusal)
    each: list[Any] | None = [None] * world() if leads() else None
    dist.gather_object(own, each, dst=0)
    return [own] if each is None else each


def _attempted(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UserError as error:
        return error


def _unless_refused(value: Any) -> Any:
    if isinstance(value, UserError):
        raise value
    return value


def mean(values: Tensor) -> Tensor:
    """The mean over processes of each entry, the same in all."""
    if world() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world()


def lowest(value: int) -> int:
    """The smallest of the values of all processes."""
    if world() == 1:
        return value
    shared = torch.tensor(value)
    dist.all_reduce(shared, dist.ReduceOp.MIN)
    return int(shared)


def agreed(seconds: float, stop: bool) -> tuple[float, bool]:
    """The leader's seconds, and whether any process wants to stop: what all decide by after each step.

    It is a message of 16 bytes between CPUs, so that no step waits for a GPU.
    """
    if world() == 1:
        return seconds, stop
    shared = torch.tensor([seconds if leads() else 0.0, float(stop)], dtype=torch.float64)
    dist.all_reduce(shared)
    return shared[0].item(), shared[1].item() > 0
