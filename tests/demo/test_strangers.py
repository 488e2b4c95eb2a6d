"""A kind of data of a stranger, which has no widgets, no reader and no scorer, gets a page too."""

import pytest

import diffcore as dc
from diffcore.demo.app import Demo
from tests.demo.test_app import PORT, ended, visit
from tests.support.toy import put_in_place, toy_registry


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, toy_registry())
        run = dc.train("toy", out=tmp_path_factory.mktemp("stranger") / "run", train={"steps": 2, "evaluate": 0})
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
