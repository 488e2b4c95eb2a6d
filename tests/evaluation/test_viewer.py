import base64
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy
import pytest

from diffcore.evaluation import page as pages
from diffcore.evaluation.viewer import Scene, Stick, compact, html, once

NASTY = "</script><script>alert(1)</script> & \"two\" 'one' <b>"


class Elements(HTMLParser):
    """The elements of a page as (name, attributes), and its text outside scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text, self._inside = [], "", ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self._inside = tag

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def unpacked(values, kind):
    return numpy.frombuffer(base64.b64decode(values), kind)


def spread(palette, n):
    values, index = palette
    return [values[k] for k in unpacked(index, "<u2")] if index else values * n


def cloud(n, seed=0):
    generator = numpy.random.default_rng(seed)
    places = generator.normal(size=(n, 3)) * (5, 1, 0.2) + 100
    colours = [f"#{value:06x}" for value in generator.integers(0, 2**24, n)]
    return Scene(places, colours, generator.uniform(0.1, 2, n).tolist())


def test_compact_data_hold_the_scene():
    scene = cloud(4096)
    data = json.loads(json.dumps(compact(scene)))
    places = unpacked(data["points"], "<i2").reshape(-1, 3) * data["unit"]
    centre = (scene.points.max(0) + scene.points.min(0)) / 2
    half = numpy.abs(scene.points - centre).max()
    assert numpy.abs(places - (scene.points - centre)).max() <= 0.5001 * half / 32767
    assert spread(data["colours"], 4096) == scene.colours
    assert spread(data["radii"], 4096) == pytest.approx(scene.radii, abs=5e-5)


def test_what_all_points_share_is_said_once():
    data = compact(Scene(cloud(4096).points, "#102030", 0.5))
    assert data["colours"] == [["#102030"], ""]
    assert data["radii"] == [[0.5], ""]
    assert len(json.dumps(data)) < 4096 * 3 * 2 * 4 / 3 + 200


def test_sticks_keep_their_lines_and_colours():
    sticks = [Stick(0, 1, 2), Stick(1, 2, 1, ("#000000", "#ffffff"))]
    data = compact(Scene(numpy.eye(3), "#102030", 1.0, sticks))
    assert data["sticks"] == [[0, 1, 2], [1, 2, 1, "#000000", "#ffffff"]]


def test_a_grid_has_a_canvas_for_each_scene_and_reads_back():
    scenes = [Scene(cloud(9, k).points, "#909090", 0.3, [Stick(0, 1)], f"{k} {NASTY}") for k in range(7)]
    page = Elements(html(scenes, 4))
    canvases = page.named("canvas")
    assert len(canvases) == 7
    for scene, canvas in zip(scenes, canvases, strict=True):
        assert json.loads(canvas["data-scene"]) == json.loads(json.dumps(compact(scene)))
        assert canvas["role"] == "img"
        assert canvas["aria-label"].startswith(scene.caption)
        assert scene.caption in page.text
    assert len(page.named("script")) == 1
    assert not page.named("b")
    assert "--columns:4" in page.named("div")[0]["style"]


def test_a_report_of_several_fragments_has_the_script_once():
    fragment = html([cloud(5)], 1)
    page = Elements(pages.page("scenes", [("one", fragment), ("two", fragment), ("three", fragment)]))
    assert len(page.named("script")) == 1
    assert len(page.named("canvas")) == 3
    assert once("nothing to turn") == "nothing to turn"


def test_nothing_comes_from_a_network():
    text = html([cloud(5)], 1)
    assert not re.search(r"https?:|src=|href=(?!\"#)|url\(|\bimport\b|fetch\(|XMLHttpRequest", text)


def test_fifty_small_scenes_are_small():
    scenes = [
        Scene(cloud(29, k).points, cloud(29, k).colours, 0.3, [Stick(i, i + 1) for i in range(28)]) for k in range(50)
    ]
    assert len(html(scenes, 10)) < 200_000


def test_places_that_are_not_finite_and_empty_scenes_are_written():
    places = numpy.array([[0, 0, 0], [numpy.nan, 1, 2], [numpy.inf, -numpy.inf, 2.0]])
    data = compact(Scene(places, "#000000", 1.0))
    assert numpy.isfinite(data["unit"])
    assert numpy.abs(unpacked(data["points"], "<i2")).max() == 32767
    assert compact(Scene(numpy.zeros((0, 3)), [], []))["points"] == ""
    assert compact(Scene(numpy.zeros((1, 3)), "#000000", 1.0))["unit"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((numpy.zeros((2, 2)), "#000000", 1.0), r"\[n, 3\], not \[2, 2\]"),
        ((numpy.zeros((2, 3)), ["#000000"], 1.0), "1 colours for 2 points"),
        ((numpy.zeros((2, 3)), "#000000", [1.0, 1.0, 1.0]), "3 radii for 2 points"),
        ((numpy.zeros((2, 3)), "#000000", 1.0, [Stick(0, 2)]), "one of the 2 points"),
        ((numpy.zeros((2, 3)), "red", 1.0), "not 'red'"),
        ((numpy.zeros((2, 3)), "#000000", 1.0, [Stick(0, 1, 1, ("#fff", "#000000"))]), "not '#fff'"),
    ],
)
def test_a_scene_that_does_not_fit_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        Scene(*arguments)


# What a browser makes of it

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

PROBE = """
const canvas = document.querySelector("canvas");
const at = (x, y) => [...canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
const soon = () => new Promise((done) => setTimeout(done, 100));
const mouse = (kind, x, y) => canvas.dispatchEvent(
  new PointerEvent(kind, { pointerId: 1, clientX: x, clientY: y, bubbles: true }));
canvas.setPointerCapture = () => {};
addEventListener("load", async () => {
  const seen = {};
  const note = async (name) => {
    await soon();
    seen[name] = { left: at(0.3, 0.5), middle: at(0.5, 0.5), right: at(0.7, 0.5) };
  };
  await soon();
  await note("first");
  mouse("pointerdown", 50, 50); mouse("pointermove", 50 + canvas.clientWidth / 2, 50); mouse("pointerup", 0, 0);
  await note("turned");
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -1000, cancelable: true }));
  for (let k = 0; k < 30; k++) canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -60, cancelable: true }));
  await note("near");
  canvas.dispatchEvent(new MouseEvent("dblclick"));
  await note("reset");
  document.body.innerHTML = "<pre>" + JSON.stringify(seen) + "</pre>";
});
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_a_browser_draws_turns_enlarges_and_resets(tmp_path):
    """A red ball on the left and a blue one on the right, a stick of two green lines between them."""
    stick = Stick(0, 1, 2, ("#00ff00", "#00ff00"))
    scene = Scene(numpy.array([[-1, 0, 0], [1, 0, 0.0]]), ["#ff0000", "#0000ff"], 0.9, [stick], thickness=0.1)
    path = tmp_path / "page.html"
    frames = "<script>requestAnimationFrame = (draw) => setTimeout(draw, 10)</script>"  # a headless browser makes few
    text = pages.page("scene", [("scene", frames + html([scene], 1))])
    path.write_text(text.replace("</html>", f"<script>{PROBE}</script></html>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--window-size=800,800", "--dump-dom", path.as_uri()]
    page = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"HOME": str(tmp_path)})
    if not page.stdout:
        pytest.skip(f"{BROWSER} does not run here")
    found = re.search(r"<pre>(\{.*\})</pre>", page.stdout)
    assert found, page.stdout[-500:] + page.stderr[-500:]
    seen = json.loads(found[1])

    def colours(name):
        return {place: "rgb"[int(numpy.argmax(value[:3]))] if value[3] else "" for place, value in seen[name].items()}

    assert colours("first")["left"] == "r"
    assert colours("first")["right"] == "b"
    assert seen["first"]["middle"][3] == 0  # between the two lines
    assert colours("turned")["middle"] == "r"  # a quarter to the right brings the left one to the front
    assert seen["near"] != seen["turned"]
    assert seen["reset"] == seen["first"]
