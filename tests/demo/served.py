"""A page that is served in a thread of the tests."""

import contextlib
import socket
import threading

import uvicorn

from diffcore.demo.app import Demo
from diffcore.demo.serve import configured


@contextlib.contextmanager
def served(runs, limits=None):
    """The address of the page of the runs, with its token."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        demo = Demo(runs, port, limits=limits)
        server = uvicorn.Server(configured(demo))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/?token={demo.token}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
            demo.close()
