"""The server of the page, without a browser."""

import asyncio
import base64
import gzip
import io
import json
import os
import re
import signal
import threading
import time
import urllib.request
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

import diffcore as dc
from diffcore.demo.app import Demo
from diffcore.demo.limits import Limits
from diffcore.demo.offer import names_of
from diffcore.demo.serve import serve
from diffcore.demo.visitors import Visitors
from diffcore.demo.words import FAILED
from diffcore.errors import UserError
from diffcore.plugins.fragments import fragment
from diffcore.runs.samples import Samples
from diffcore.runs.variations import variation_of

TINY = ["--denoiser.width", "8", "--train.steps", "2", "--train.evaluate", "0"]
LIMITS = Limits(samples=8, steps=30, file_bytes=10_000, results=3, files=3, visitors=3, kept=3)
PORT = 5000


@pytest.fixture(scope="module")
def run(tmp_path_factory, trained, few_pictures):
    return dc.load(trained(tmp_path_factory.mktemp("demo") / "run", "--modality", "image", *TINY))


@pytest.fixture(scope="module")
def demo(run):
    demo = Demo([run], PORT, limits=LIMITS)
    yield demo
    demo.close()


def visit(demo, host=f"127.0.0.1:{PORT}"):
    client = TestClient(demo.app, base_url=f"http://{host}")
    entered = client.get(entrance(client.get(f"/?token={demo.token}").text))
    assert (entered.status_code, entered.history[0].status_code) == (200, 303)
    client.base_url = entered.url
    return client


def entrance(page):
    """Where the first page leads."""
    return re.search(r'url=([^"]+)"', page)[1]


@pytest.fixture
def client(demo):
    return visit(demo)


def ended(client, **wanted):
    """The last news of a job."""
    answer = client.post("/jobs", json={"run": 0, "n": 2, "steps": 2, **wanted})
    if answer.status_code != 200:
        return {"state": "refused", "message": answer.text}
    job, after, tiles = answer.json()["job"], -1, None
    while True:
        news = client.get(f"/jobs/{job}?after={after}").json()
        after, tiles = news["version"], news.get("tiles", tiles)
        if news["state"] in ("done", "failed", "cancelled"):
            return news | {"tiles": tiles}


def pictures(client, **query):
    """The pixels of the files of an archive, by name."""
    answer = client.get("/download", params={"ending": ".zip", **query})
    assert answer.status_code == 200, answer.text
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    names = [name for name in archive.namelist() if "overview" not in name]
    return {name: numpy.array(Image.open(io.BytesIO(archive.read(name)))) for name in names}


def sent(client, content, ending=".png"):
    return client.post(f"/files?ending={ending}", content=content)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(numpy.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


# What is drawn


def test_the_samples_are_those_of_the_library(client, run):
    done = ended(client, n=3, seed=7, steps=4, solver="ddim", conditions={"label": "5"})
    assert done["state"] == "done"
    assert len(done["tiles"]) == 3
    assert all(tile.startswith('<img alt="1 samples" src="data:image/png;base64,') for tile in done["tiles"])
    expected = run.sample(3, seed=7, steps=4, solver="ddim", label="5").decoded
    found = pictures(client, result=done["result"])
    assert list(found) == ["0000-5.png", "0001-5.png", "0002-5.png"]
    assert numpy.array_equal(numpy.stack(list(found.values())), expected[:, 0].numpy())
    one = pictures(client, result=done["result"], sample=2)
    assert [value.tolist() for value in one.values()] == [expected[2, 0].tolist()]
    sheet = client.get("/download", params={"result": done["result"], "ending": ".png"})
    assert sheet.headers["content-disposition"] == 'attachment; filename="samples.png"'


def test_unfinished_samples_are_shown(run, monkeypatch):
    shown = []
    monkeypatch.setattr("diffcore.demo.drawing.REST", 0)
    demo = Demo([run], PORT, limits=LIMITS)
    add = demo._jobs._work
    demo._jobs._work = lambda job: add(_listened(job, shown))
    assert ended(visit(demo), steps=5, solver="ddim")["state"] == "done"
    demo.close()
    assert [len(tiles) for tiles, _ in shown] == [2] * 6  # each step, and the result
    assert [done for _, done in shown] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert len({tiles[0] for tiles, _ in shown}) > 3


def _listened(job, shown):
    show = job.show
    job.show = lambda tiles, done: (shown.append((tiles, done)), show(tiles, done))
    return job


def test_variations_of_a_sample_and_of_a_file_are_those_of_the_library(client, run):
    first = ended(client, n=2, seed=1)
    base = run.sample(2, seed=1, steps=2)
    again = {"action": "vary", "strength": 0.3, "seed": 5, "steps": 6}
    done = ended(client, source={"result": first["result"], "sample": 1}, **again)
    expected = run.vary(base.taken([1]), 0.3, 2, seed=5, steps=6).decoded[:, 0]
    assert numpy.array_equal(numpy.stack(list(pictures(client, result=done["result"]).values())), expected.numpy())
    pixels = base.decoded[1, 0].numpy()
    file = sent(client, png(pixels)).json()["file"]
    done = ended(client, source={"file": file}, **again)
    assert done["state"] == "done", done
    assert len(done["tiles"]) == 2


def test_a_painted_part_is_filled_in_and_the_rest_stays(client, run):
    first = ended(client, n=1, seed=1)
    mask = numpy.zeros((8, 8))
    mask[:, :4] = 255
    name = sent(client, png(mask)).json()["file"]
    source = {"result": first["result"], "sample": 0}
    done = ended(client, action="complete", source=source, mask=name, n=2, steps=5)
    before = next(iter(pictures(client, result=first["result"]).values()))
    for after in pictures(client, result=done["result"]).values():
        assert numpy.abs(after[:, 4:].astype(int) - before[:, 4:]).max() <= 2
        assert numpy.abs(after[:, :4].astype(int) - before[:, :4]).max() > 20


def test_a_widget_shows_the_sample_whose_part_is_filled_in(client, run):
    first = ended(client, n=1, seed=1)
    body = {"run": 0, "source": {"result": first["result"], "sample": 0}}
    html = client.post("/widget?argument=mask", json=body).json()["html"]
    pixels = next(iter(pictures(client, result=first["result"]).values()))
    encoded = re.search(r'src="data:image/png;base64,([^"]+)"', html)[1]
    assert numpy.array_equal(numpy.array(Image.open(io.BytesIO(base64.b64decode(encoded)))), pixels)
    assert "{{" not in html
    assert client.post("/widget?argument=gap", json=body).status_code == 400


def test_samples_are_kept_until_they_are_dropped_also_when_their_result_is_forgotten(demo):
    client = visit(demo)
    first = ended(client, n=2, seed=1)
    kept = client.post("/kept", params={"result": first["result"], "sample": 1}).json()
    assert kept == {"tiles": [first["tiles"][1]], "runs": [0], "numbers": [0]}
    pixels = pictures(client, result=first["result"], sample=1)
    for seed in range(LIMITS.results):
        ended(client, n=1, seed=seed)
    assert client.get("/download", params={"result": first["result"]}).status_code == 400
    assert [x.tolist() for x in pictures(client, result="kept").values()] == [x.tolist() for x in pixels.values()]
    assert ended(client, action="vary", source={"result": "kept", "sample": 0})["state"] == "done"
    assert client.post("/kept", params={"drop": 1, "sample": 0}).json() == {"tiles": [], "runs": [], "numbers": []}


def test_a_kept_sample_is_the_same_after_another_is_dropped(demo):
    client = visit(demo)
    first = ended(client, n=3, seed=1)
    for row in range(3):
        kept = client.post("/kept", params={"result": first["result"], "sample": row}).json()
    assert kept["numbers"] == [0, 1, 2]
    before = pictures(client, result="kept", sample=2)
    kept = client.post("/kept", params={"drop": 1, "sample": 1}).json()
    assert (kept["numbers"], kept["tiles"]) == ([0, 2], [first["tiles"][0], first["tiles"][2]])
    after = pictures(client, result="kept", sample=2)
    assert [each.tolist() for each in after.values()] == [each.tolist() for each in before.values()]
    assert "no longer kept" in client.get("/download", params={"result": "kept", "sample": 1}).text
    assert "saved as .zip" in client.get("/download", params={"result": "kept", "ending": ".png"}).text
    assert len(pictures(client, result="kept")) == 2


def test_the_oldest_kept_samples_make_place_for_large_ones(demo):
    client = visit(demo)
    visitor = next(iter(reversed(demo.visitors._known.values())))
    first = ended(client, n=2, seed=1)
    visitor.limits = Limits(result_bytes=len("".join(first["tiles"])) - 1)
    for row in range(2):
        kept = client.post("/kept", params={"result": first["result"], "sample": row}).json()
    assert kept["numbers"] == [1]


def test_a_sample_of_another_run_goes_through_a_file(run, monkeypatch):
    """The states of the other run may mean something else, as those of another autoencoder do."""
    seen = []

    def variation(model, source, strength):
        seen.append(source if isinstance(source, Samples) else numpy.array(Image.open(source)))
        return variation_of(model, source, strength)

    monkeypatch.setattr("diffcore.demo.drawing.variation_of", variation)
    demo = Demo([run, run], PORT, limits=LIMITS)
    client = visit(demo)
    first = ended(client, n=2, seed=1)
    for number in range(2):
        vary = ended(client, run=number, action="vary", source={"result": first["result"], "sample": 1})
        assert vary["state"] == "done"
    assert isinstance(seen[0], Samples)
    assert numpy.array_equal(seen[1], run.sample(2, seed=1, steps=2).decoded[1, 0].numpy())
    demo.close()


def test_values_of_fragments_are_not_searched_for_places(tmp_path, monkeypatch):
    monkeypatch.setattr("diffcore.plugins.fragments.files", lambda package: tmp_path)
    (tmp_path / "a.html").write_text("<b>{{one}}</b>{{two}}")
    assert fragment("any", "a.html", {"one": "{{two}}", "two": 2}) == "<b>{{two}}</b>2"
    with pytest.raises(KeyError):
        fragment("any", "a.html", {"one": 1})


def test_endings_may_have_two_parts(demo):
    client = visit(demo)
    sent(client, b"x", ".sdf.gz")
    visitor = next(iter(reversed(demo.visitors._known.values())))
    assert [path.name.partition(".")[2] for path in visitor.files.values()] == ["sdf.gz"]


def test_runs_of_the_same_name_have_different_names_on_the_page():
    paths = [Path("/a/first/default-1"), Path("/a/second/default-1"), Path("/a/second/default-2")]
    assert names_of(paths) == ["first/default-1", "second/default-1", "default-2"]
    assert names_of(paths[:1] * 2) == ["default-1"] * 2


def test_messages_do_not_say_where_files_lie(client):
    file = sent(client, png(numpy.zeros((4, 4)))).json()["file"]
    said = ended(client, action="vary", source={"file": file})["message"]
    assert said == "the file: the image has 4x4 pixels; this model needs 8x8"
    widget = client.post("/widget?argument=mask", json={"run": 0, "source": {"file": file}})
    assert (widget.status_code, widget.text) == (400, said)


def test_files_that_are_used_are_not_the_first_to_be_deleted(demo):
    client = visit(demo)
    first = sent(client, png(numpy.zeros((8, 8)))).json()["file"]
    for _ in range(2 * LIMITS.files):
        sent(client, b"x")
        assert ended(client, n=1, action="vary", source={"file": first})["state"] == "done"


def test_what_is_drawn_for_a_forgotten_visitor_ends_and_nothing_is_kept(demo):
    client = visit(demo)
    visitor = next(iter(reversed(demo.visitors._known.values())))
    job = client.post("/jobs", json={"run": 0, "n": 8, "steps": 30}).json()["job"]
    visitor.forget()
    known = demo._jobs.of(visitor, job)
    end = time.monotonic() + 10
    while not known.ended:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert known.state == "cancelled"
    assert visitor.results == {}
    assert "open it again" in sent(client, b"x").text


def test_the_offer_says_what_a_run_can_do(client, run):
    (offer,) = client.get("/runs").json()
    assert offer["conditions"][0]["choices"] == [str(digit) for digit in range(10)]
    assert offer["actions"] == {"vary": ["strength"], "complete": ["mask"], "enlarge": []}
    assert offer["downloads"] == [".png", ".zip"]
    assert offer["solver"] in offer["solvers"]
    assert (offer["steps"], offer["most"]) == (run.settings.sample.steps, 8)


# Who may do what


def test_nobody_enters_without_the_token(demo):
    client = TestClient(demo.app, base_url=f"http://127.0.0.1:{PORT}")
    for address in ("/", "/runs", "/page.js", "/frame", "/kept", "/download?result=kept"):
        assert client.get(address).status_code == 403
    assert client.post("/jobs", json={"run": 0}).status_code == 403
    assert client.get("/?token=wrong").status_code == 403
    inside = entrance(client.get(f"/?token={demo.token}").text)
    entered, folder = client.get(inside, follow_redirects=False), inside.split("?")[0]
    assert (entered.status_code, entered.headers["location"]) == (303, folder)  # the token does not stay in the address
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get(folder).status_code == 200
    again = client.get(inside, follow_redirects=False)
    assert "set-cookie" not in again.headers  # and nothing is lost where the address is opened again


def test_the_cookie_is_bound_to_a_folder_that_other_ports_do_not_know(demo):
    client = visit(demo)
    name, value = next(iter(client.cookies.items()))
    (folder,) = {cookie.path for cookie in client.cookies.jar}
    assert re.fullmatch(r"/[\w-]{12}/", folder)
    stranger = TestClient(demo.app, base_url=f"http://127.0.0.1:{PORT}", cookies={name: value})
    assert stranger.get("/runs").status_code == 403
    assert stranger.get(f"{folder}runs").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": f"127.0.0.1.evil.example:{PORT}"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": f"http://127.0.0.1:{PORT + 1}"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"origin": f"http://127.0.0.1:{PORT}"}, 200),
    ],
)
def test_other_sites_and_other_ports_are_refused(client, headers, status):
    assert client.post("/kept?drop=1&sample=-1", headers=headers).status_code in (
        (status,) if status != 200 else (400,)
    )
    assert client.get("/runs", headers=headers).status_code == status


def test_every_answer_has_a_policy_and_frames_have_no_network(client):
    for address in ("/", "/page.js", "/page.css", "/runs", "/nothing"):
        headers = client.get(address).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    policy = client.get("/frame").headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none';")
    assert "connect-src" not in policy
    assert "allow-same-origin" not in policy


def test_two_visitors_have_their_own_samples_and_files(demo):
    one, two = visit(demo), visit(demo)
    mine = ended(one, seed=3)
    theirs = ended(two, seed=4)
    assert mine["tiles"] != theirs["tiles"]
    name = sent(one, png(numpy.zeros((8, 8)))).json()["file"]
    assert two.get("/download", params={"result": mine["result"]}).status_code == 400
    assert two.post("/kept", params={"result": mine["result"], "sample": 0}).status_code == 400
    assert two.get("/kept").json()["tiles"] == []
    assert ended(two, action="vary", source={"file": name})["state"] == "failed"
    assert ended(two, action="vary", source={"result": mine["result"]})["state"] == "failed"


def test_the_visitor_who_was_away_longest_is_forgotten_with_all_files(demo):
    first = visit(demo)
    sent(first, b"x")
    folder = next(iter(reversed(demo.visitors._known.values()))).folder
    assert len([*folder.iterdir()]) == 1
    for _ in range(LIMITS.visitors):
        visit(demo)
    assert first.get("/runs").status_code == 403
    assert not folder.exists()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"n": 9}, "9 samples are more than 8"),
        ({"n": 0}, "greater than or equal to 1"),
        ({"n": 10**30}, "less than or equal to"),
        ({"steps": 31}, "31 steps are more than 30"),
        ({"solver": "no"}, "no solver 'no'"),
        ({"size": "8x8"}, "all samples of image have the same size"),
        ({"size": "9" * 30}, "at most 20"),
        ({"size": "5.."}, "size: write a number such as 9"),
        ({"guidance": "NaN"}, "finite"),
        ({"run": 1}, "no run 1"),
        ({"conditions": {"label": "cat"}}, "label"),
        ({"conditions": {"no": "1"}}, "no"),
        ({"conditions": {"label": "x" * 3000}}, "at most 2000"),
        ({"classifier": "/etc"}, "Extra inputs"),
        ({"action": "vary"}, "choose a sample or a file"),
        ({"action": "vary", "source": {"file": "/etc/passwd"}}, "no longer here"),
        ({"action": "vary", "source": {"file": "../file-0"}}, "no longer here"),
        ({"action": "vary", "source": {"result": "kept", "sample": 5}}, "no longer kept"),
        ({"action": "train"}, "Input should be"),
    ],
)
def test_what_is_too_much_or_wrong_is_refused_in_one_line(client, wanted, said):
    answer = ended(client, **wanted)
    assert answer["state"] in ("refused", "failed")
    assert said in answer["message"]
    assert "\n" not in answer["message"]


def test_files_are_bounded_and_cannot_choose_their_place(demo):
    client = visit(demo)
    assert "larger than" in sent(client, b"x" * 10_001).text
    assert "when it is decompressed" in sent(client, gzip.compress(b" " * 100_000), ".sdf.gz").text
    assert sent(client, gzip.compress(b" " * 9_000), ".sdf.gz").status_code == 200
    assert sent(client, gzip.compress(b" " * 9_000)[:20], ".sdf.gz").status_code == 200  # its reader will refuse it
    assert "larger than" in client.post("/jobs", content=b"[" * 100_000).text
    visitor = next(iter(reversed(demo.visitors._known.values())))
    for ending in ("/../../x.png", ".p/ng", "", ".ß", "." + "a" * 300):
        assert sent(client, b"x", ending).status_code == 200
    assert len([*visitor.folder.iterdir()]) == LIMITS.files  # the oldest are deleted
    assert all(
        path.parent == visitor.folder and re.fullmatch(r"[a-z0-9.-]+", path.name) for path in visitor.files.values()
    )
    assert client.get("/download?result=kept&ending=.sdf").status_code == 400
    for address in ("/../pyproject.toml", "/page.js/../../app.py", "/static/page.js", "/app.py", "/%2e%2e/app.py"):
        assert client.get(address).status_code in (403, 404)


def test_an_error_of_the_program_is_not_shown_to_visitors(demo, monkeypatch, caplog):
    def broken(samples):
        raise ZeroDivisionError("<secret>")

    monkeypatch.setattr("diffcore.demo.app.tiles_of", broken)
    news = ended(visit(demo), steps=1)
    assert news["state"] == "failed"
    assert "secret" not in json.dumps(news)
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert ended(visit(demo), steps=1)["state"] == "done"  # others are served


def test_an_error_of_a_widget_is_told_in_a_line_too(demo, client, monkeypatch, caplog):
    def broken(run, argument, sample):
        raise ZeroDivisionError("<secret>")

    body = {"run": 0, "source": {"result": ended(client, n=1)["result"]}}
    assert "no widget for ''" in client.post("/widget", json=body).text
    monkeypatch.setattr("diffcore.demo.app.widget_of", broken)
    answer = client.post("/widget?argument=mask", json=body)
    assert (answer.status_code, answer.text) == (500, FAILED)
    assert "ZeroDivisionError" in caplog.text


# Starting and stopping


def test_ctrl_c_stops_the_server_and_what_is_drawn_and_frees_the_port(run):
    seen, others = {}, {*threading.enumerate()}

    def use(address):
        port = int(re.search(r":(\d+)/", address)[1])
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        inside = f"http://127.0.0.1:{port}" + entrance(opener.open(address, timeout=10).read().decode())
        assert b"panels" in opener.open(inside, timeout=10).read()
        wanted = {"run": 0, "n": 64, "steps": 1000}
        request = urllib.request.Request(f"{inside.split('?')[0]}jobs", json.dumps(wanted).encode())
        seen["job"] = json.loads(opener.open(request, timeout=10).read())
        seen["port"], seen["time"] = port, time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        serve([run], started=lambda address: threading.Thread(target=use, args=[address]).start())
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen["job"]
    assert time.monotonic() - seen["time"] < 8
    assert not [thread for thread in {*threading.enumerate()} - others if thread.name == "diffcore-demo"]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{seen['port']}/", timeout=5)


def test_a_port_in_use_and_a_run_without_samples_are_refused(run, tmp_path, trained, few_pictures):
    import socket

    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        with pytest.raises(UserError, match="cannot be used"):
            serve([run], busy.getsockname()[1])
    flags = ["--modality", "image", "--task", "classify", "--train.steps", "1", "--train.evaluate", "0"]
    classifier = dc.load(trained(tmp_path / "classifier", *flags))
    with pytest.raises(UserError, match="draws no samples"):
        Demo([run, classifier], PORT)
    assert torch.get_default_dtype() == torch.float32


def test_a_second_ctrl_c_also_deletes_the_files_of_visitors(run, monkeypatch):
    demo = Demo([run], PORT, limits=LIMITS)
    sent(visit(demo), b"x")
    folder = next(iter(demo.visitors._known.values())).folder
    end = demo._jobs.close

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(demo._jobs, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.close()
    assert not folder.exists()
    end()


def test_sigterm_deletes_the_files_of_visitors_too(run, monkeypatch):
    folders = []

    def use(address):
        port = int(re.search(r":(\d+)/", address)[1])
        inside = entrance(urllib.request.urlopen(address, timeout=10).read().decode())
        urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(f"http://127.0.0.1:{port}{inside}")
        os.kill(os.getpid(), signal.SIGTERM)

    new = Visitors.new
    monkeypatch.setattr(Visitors, "new", lambda self: (visitor := new(self), folders.append(visitor.folder))[0])
    with pytest.raises(SystemExit) as ended:
        serve([run], started=lambda address: threading.Thread(target=use, args=[address]).start())
    assert ended.value.code == 128 + signal.SIGTERM
    assert [folder.exists() for folder in folders] == [False]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_notebook_is_told_to_use_the_command(run):
    async def cell():
        serve([run])

    with pytest.raises(UserError, match="diffcore demo"):
        asyncio.run(cell())
