"""Serves the page of runs to the browsers of this machine until it is stopped."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import torch
import uvicorn

from diffcore.api.run import Run
from diffcore.demo.app import Demo
from diffcore.demo.limits import Limits
from diffcore.errors import UserError

HOST = "127.0.0.1"
"""The page is for this machine alone: it answers on the loopback interface."""


class _Server(uvicorn.Server):
    """A server that does not wait for open connections when it is asked to stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.force_exit = True  # questions for news need not be answered any more


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM, and SIGHUP of a closed terminal, raise `SystemExit`, so that what must be deleted is deleted."""
    kinds = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        kinds = []  # only the main thread may set handlers

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {kind: signal.signal(kind, end) for kind in kinds if signal.getsignal(kind) == signal.SIG_DFL}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def configured(demo: Demo) -> uvicorn.Config:
    """How the page is served."""
    return uvicorn.Config(
        demo.app,
        log_level="error",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
        server_header=False,
        limit_concurrency=demo.limits.connections + 1,  # the last of which uvicorn refuses
    )


def serve(
    runs: Sequence[Run], port: int = 0, started: Callable[[str], None] = print, limits: Limits | None = None
) -> None:
    """Serve the page until Ctrl-C, then free the device and delete what belongs to visitors.

    `port` 0 takes a free one. `started` is called with the address, which contains the token. Raises `UserError` if
    the port is in use, for runs that draw no samples, and in notebooks, whose event loop is running already.
    """
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise UserError("`serve` cannot be called in a notebook: use `diffcore demo RUN` in a terminal")
    with _ended_by_signals(), socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise UserError(f"`port` {port} cannot be used ({error.strerror}): leave it out for a free one") from None
        listening.listen()
        port = listening.getsockname()[1]
        demo = Demo(runs, port, limits=limits)
        try:
            started(f"http://{HOST}:{port}/?token={demo.token}")
            with contextlib.suppress(KeyboardInterrupt):  # the server raises it again when it has ended
                _Server(configured(demo)).run(sockets=[listening])
        finally:
            demo.close()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
