"""A kind of data of a stranger, which has no widgets, no reader and no scorer, gets a page too; and so many get it."""

import contextlib
import http.client
import socket
import time
from urllib.parse import urlsplit

import pytest

import diffcore as dc
from diffcore.demo.app import Demo
from diffcore.demo.limits import Limits
from tests.demo.served import served
from tests.demo.test_app import PORT, ended, visit
from tests.demo.test_jobs import until
from tests.support.toy import put_in_place, toy_registry


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, toy_registry())
        yield dc.train("toy", out=tmp_path_factory.mktemp("stranger") / "run", train={"steps": 2, "evaluate": 0})


@pytest.fixture(scope="module")
def demo(run):
    demo = Demo([run], PORT)
    yield demo
    demo.close()


def test_a_plugin_without_any_of_it_gets_a_page(demo):
    client = visit(demo)
    (offer,) = client.get("/runs").json()
    assert offer["actions"] == {"vary": ["strength"]}
    assert (offer["widgets"], offer["endings"], offer["sides"]) == ({}, [], [])
    first = ended(client, conditions={"ring": "outer"}, seed=1)
    assert first["state"] == "done", first
    again = ended(client, action="vary", source={"result": first["result"], "sample": 1})
    assert len(again["tiles"]) == 2
    for ending in offer["downloads"]:
        answer = client.get("/download", params={"result": first["result"], "ending": ending})
        assert (answer.status_code, len(answer.content) > 0) == (200, True)
    assert "choose a sample" in ended(client, action="complete")["message"]
    file = client.post("/files?ending=.x", content=b"x").json()["file"]
    assert "cannot read files" in ended(client, action="vary", source={"file": file})["message"]


def test_open_connections_are_limited(run):
    """Connections that say nothing count; the next request is refused, and answered again when they are gone."""
    with served([run], Limits(connections=4)) as address, contextlib.ExitStack() as idle:
        port = urlsplit(address).port
        assert port

        def status():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/")
            found = connection.getresponse().status
            connection.close()
            return found

        for _ in range(3):
            idle.enter_context(socket.create_connection(("127.0.0.1", port)))
        time.sleep(0.2)  # until the server has accepted them
        assert status() == 403  # the fourth
        idle.enter_context(socket.create_connection(("127.0.0.1", port)))
        until(lambda: status() == 503)
        idle.close()
        until(lambda: status() == 403)
