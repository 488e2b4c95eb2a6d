"""Serves the page of runs to the browsers of this machine until it is stopped."""

import contextlib
import socket
from collections.abc import Callable, Sequence
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


def serve(
    runs: Sequence[Run], port: int = 0, started: Callable[[str], None] = print, limits: Limits | None = None
) -> None:
    """Serve the page until Ctrl-C, then free the device.

    `port` 0 takes a free one. `started` is called with the address, which contains the token. Raises `UserError` if
    the port is in use, and for runs that draw no samples.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise UserError(f"`port` {port} cannot be used ({error.strerror}): leave it out for a free one") from None
        listening.listen()
        port = listening.getsockname()[1]
        demo = Demo(runs, port, limits=limits)
        config = uvicorn.Config(
            demo.app,
            log_level="error",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            server_header=False,
        )
        try:
            started(f"http://{HOST}:{port}/?token={demo.token}")
            with contextlib.suppress(KeyboardInterrupt):  # the server raises it again when it has ended
                _Server(config).run(sockets=[listening])
        finally:
            demo.close()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
