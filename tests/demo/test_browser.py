"""The page in a real browser: each control of each kind of data is used.

With DIFFCORE_SCREENSHOTS=FOLDER, pictures of the page are kept there, to be looked at.
"""

import http.server
import json
import os
import re
import shutil
import threading
import zipfile
from pathlib import Path

import numpy
import pytest
from PIL import Image

import diffcore as dc
from diffcore.demo.limits import Limits
from tests.demo.served import served
from tests.support.quickest import QUICKEST

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if BROWSER is None:
    pytest.skip("no Chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

HOSTILE = "<img src=x onerror=window.top.injected=1><script>window.injected=1"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"{BROWSER} does not run here: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, trained, few_pictures):
    folder = tmp_path_factory.mktemp("pages")
    return {name: dc.load(trained(folder / name, *flags)) for name, flags in QUICKEST.items()}


@pytest.fixture(scope="module")
def address(runs):
    with served(list(runs.values())) as address:
        yield address


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1200, "height": 1000}, accept_downloads=True)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.wait_for_selector(".panel")
    page.fill("#n", "2")
    yield page
    context.close()
    assert not wrong


def choose(page, run):
    page.select_option("select[name=run]", label=run)
    page.fill("input[name=steps]", "3")


def drawn(page, panel=0):
    """What the page says when the drawing has ended."""
    ended = ".status.wrong, .status:text-matches('samples?$|stopped')"
    page.locator(".panel").nth(panel).locator(ended).wait_for(timeout=60_000)
    return page.locator(".status").nth(panel).text_content()


def draw(page):
    page.click("#draw")
    return drawn(page)


def begin_long(page):
    """Begin a drawing that takes longer than a test."""
    choose(page, "pointcloud")
    page.fill("#n", "64")
    page.fill("input[name=steps]", "900")
    page.click("#draw")
    page.locator(".status:text-matches('drawing')").wait_for()


def button(page, action, sample=0, place=".out"):
    return page.frame_locator(f"{place} iframe").locator(f"button[data-action={action}]").nth(sample)


def saved(page, click, folder):
    with page.expect_download() as waiting:
        click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    assert path.stat().st_size > 50 or path.suffix == ".smi"  # which has valid molecules only
    return path


def photograph(page, name):
    if folder := os.environ.get("DIFFCORE_SCREENSHOTS"):
        page.wait_for_timeout(700)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


SHOWN = {"image": "img", "audio": "audio", "molecule": "canvas", "pointcloud": "canvas"}


@pytest.mark.parametrize("name", QUICKEST)
def test_every_control_of_a_kind_of_data_works(page, runs, name, tmp_path):
    choose(page, name)
    # Conditions: menus, sliders with the data behind them, texts.
    for menu in page.locator(".conditions select").all():
        menu.select_option(index=2)
    for slider in page.locator(".conditions input[type=range]").all():
        slider.focus()
        slider.press("ArrowRight")
    for text in page.locator(".conditions .number input:not([type=range])").all():
        assert float(text.input_value()) == pytest.approx(float(text.input_value()))
    assert (page.locator(".conditions svg path").count() > 0) == (name == "molecule")
    page.select_option("select[name=solver]", "ddim")
    page.locator("input[name=guidance]").press("ArrowRight")
    assert page.locator(".guidance output").text_content() == "1.1"
    page.fill("#seed", "5")
    assert draw(page) == "2 samples"
    tiles = page.frame_locator(".out iframe").locator(".tile")
    assert tiles.count() == 2
    assert tiles.nth(0).locator(SHOWN[name]).count() >= 1
    photograph(page, name)
    # Saving one, and all in each format.
    one = saved(page, button(page, "save").click, tmp_path)
    assert zipfile.ZipFile(one).testzip() is None
    endings = {saved(page, link.click, tmp_path).suffix for link in page.locator(".saving a").all()}
    wanted = {"image": {".png"}, "audio": {".wav"}, "molecule": {".sdf", ".csv"}, "pointcloud": {".ply"}}[name]
    assert {*wanted, ".zip"} <= endings
    # Keeping, and variations of one that is kept.
    button(page, "keep", 1).click()
    kept = page.frame_locator("#kept iframe").locator(".tile")
    kept.wait_for()
    button(page, "vary", 0, "#kept").click()
    page.wait_for_selector("text=Starts from kept sample 1.")
    assert drawn(page) == "2 samples"
    button(page, "drop", 0, "#kept").click()
    page.locator("#kept").wait_for(state="hidden")
    # More like this, with the strength.
    button(page, "vary").click()
    page.wait_for_selector("text=Starts from sample 1 of the last drawing.")
    assert drawn(page) == "2 samples"
    page.locator("input[name=strength]").press("ArrowRight")
    assert page.locator(".strength output").text_content() == "0.51"
    assert draw(page) == "2 samples"
    # Filling in a part, with the widget.
    button(page, "complete").click()
    widget = page.frame_locator(".widget iframe")
    if name == "image":
        box = widget.locator("canvas").bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + 60, box["y"] + 60, steps=4)
        page.mouse.up()
        widget.locator("#fill").click()
    elif name == "audio":
        widget.locator("#from").press("ArrowRight")
        assert re.fullmatch(r"\d\.\d\d\.\.\d\.\d\d", page.input_value("input[name=gap]"))
    elif name == "molecule":
        widget.locator("button").first.click()
        assert page.input_value("input[name=free]") == "1"
        page.fill("input[name=grow]", "0..1")
    else:
        widget.locator("#side").select_option("1,1")
        assert len(page.input_value("input[name=free]").split(",")) > 100
    page.select_option("select[name=solver]", index=0)
    photograph(page, f"{name}-part")
    said = draw(page)
    assert said == "2 samples" or (name == "molecule" and "known" in said)  # an untrained molecule may be one atom
    # A file: what was saved before is dropped in again.
    with zipfile.ZipFile(one) as archive:
        file = next(each for each in archive.namelist() if "overview" not in each)
        archive.extract(file, tmp_path)
    page.set_input_files("input[name=file]", tmp_path / file)
    page.wait_for_selector("text=Starts from the file")
    page.select_option("select[name=action]", "vary")
    assert draw(page) in ("2 samples",) or name == "molecule"  # not every molecule of an untrained network is possible


def test_sizes_are_chosen_where_they_vary(page):
    for name, size in (("molecule", "5"), ("pointcloud", "64"), ("audio", "0.3")):
        choose(page, name)
        page.fill("input[name=size]", size)
        assert draw(page) == "2 samples"
    choose(page, "image")
    assert not page.locator("input[name=size]").is_visible()


def test_a_smaller_file_is_enlarged_and_a_mask_file_is_read(page, tmp_path):
    choose(page, "image")
    Image.fromarray(numpy.full((4, 4), 90, numpy.uint8)).save(tmp_path / "small.png")
    page.select_option("select[name=action]", "enlarge")
    page.set_input_files("input[name=file]", tmp_path / "small.png")
    page.wait_for_selector("text=small.png")
    assert draw(page) == "2 samples"
    page.select_option("select[name=action]", "vary")
    assert "pixels" in draw(page)  # a mistake is told in a line
    assert page.locator(".status.wrong").count() == 1


def test_two_runs_are_compared_at_the_same_seed_and_the_same_run_gives_the_same(page, tmp_path):
    choose(page, "image")
    page.click("#compare")
    assert page.locator(".panel").count() == 2
    second = page.locator(".panel").nth(1)
    second.locator("select[name=run]").select_option(label="pointcloud")
    page.click("#draw")
    assert [drawn(page, panel) for panel in range(2)] == ["2 samples"] * 2
    assert page.frame_locator(".out iframe >> nth=1").locator("canvas").count() == 2
    photograph(page, "compared")
    second.locator("select[name=run]").select_option(label="image")
    second.locator("input[name=steps]").fill("3")
    page.click("#draw")
    assert [drawn(page, panel) for panel in range(2)] == ["2 samples"] * 2
    first, other = (page.frame_locator(f".out iframe >> nth={panel}").locator("img").first for panel in range(2))
    assert first.get_attribute("src") == other.get_attribute("src")
    page.click("#compare")
    assert page.locator(".panel").count() == 1


def test_a_drawing_is_stopped_and_a_new_seed_draws_others(page):
    begin_long(page)
    page.click("#stop")
    assert drawn(page) == "stopped"
    choose(page, "image")
    page.fill("#n", "1")
    draw(page)
    image = page.frame_locator(".out iframe").locator("img").first
    before, seed = image.get_attribute("src"), page.input_value("#seed")
    page.click("#reseed")
    page.wait_for_timeout(100)
    assert drawn(page) == "1 sample"
    assert page.input_value("#seed") != seed
    assert image.get_attribute("src") != before


def test_two_visitors_at_once_get_their_own_samples(browser, address):
    pages = []
    for seed in ("1", "2"):
        page = browser.new_context().new_page()
        page.goto(address)
        page.wait_for_selector(".panel")
        choose(page, "image")
        page.fill("#n", "2")
        page.fill("#seed", seed)
        pages.append(page)
    for page in pages:
        page.click("#draw")
    assert [drawn(page) for page in pages] == ["2 samples"] * 2
    button(pages[0], "keep").click()
    pages[0].frame_locator("#kept iframe").locator(".tile").wait_for()
    pages[1].reload()
    pages[1].wait_for_selector(".panel")
    assert not pages[1].locator("#kept").is_visible()
    pages[0].reload()
    pages[0].frame_locator("#kept iframe").locator(".tile").wait_for()
    for page in pages:
        page.context.close()


def test_names_of_a_strangers_run_cannot_inject_markup_and_frames_reach_nothing(browser, tmp_path, few_pictures):
    data = tmp_path / "data"
    for name in (HOSTILE, 'plain" onload="window.injected=1'):
        (data / name.replace("/", "_")).mkdir(parents=True)
        for number in range(4):
            pixels = numpy.full((8, 8), 40 * number, numpy.uint8)
            Image.fromarray(pixels).save(data / name.replace("/", "_") / f"{number}.png")
    run = dc.train(
        "image",
        data={"name": "folder", "root": str(data)},
        denoiser={"width": 8},
        train={"steps": 1, "evaluate": 0, "batch_size": 4},
        out=tmp_path / HOSTILE.replace("/", "_"),
    )
    with served([run]) as address:
        page = browser.new_context().new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector(".panel")
        page.select_option(".conditions select", index=1)
        page.fill("#n", "2")
        page.fill("input[name=steps]", "2")
        assert draw(page) == "2 samples"
        button(page, "keep").click()
        page.frame_locator("#kept iframe").locator(".tile").wait_for()
        assert page.locator(".conditions option").nth(1).text_content().startswith(("<img", 'plain"'))
        assert page.locator("body img").count() == 0
        for frame in page.frames:
            assert frame.locator("[onerror], [onload]").count() == 0
        assert not [url for url in asked if not url.startswith(address.split("?")[0]) and not url.startswith("data:")]
        assert page.title() == "diffcore"
        page.context.close()


TRY = """<p id="tried"></p><img src="http://127.0.0.1:9/picture.png"><script>
const tried = {}, place = document.getElementById("tried");
const note = (name, value) => { tried[name] = value; place.textContent = JSON.stringify(tried); };
const attempt = (name, what) => { try { note(name, "reached " + what()); } catch { note(name, "refused"); } };
attempt("page", () => parent.document.title);
attempt("cookies", () => document.cookie);
attempt("storage", () => localStorage.length);
attempt("window", () => { if (!window.open("/")) throw new Error(); });
for (const url of ["/runs", "http://127.0.0.1:9/"])
  fetch(url).then(() => note(url, "reached"), () => note(url, "refused"));
</script>"""
"""What a fragment of a hostile plugin could try."""


def test_a_fragment_reaches_neither_the_page_nor_the_server_nor_other_sites(browser, runs, monkeypatch):
    monkeypatch.setattr("diffcore_image.output.writer.ImageWriter.html", lambda *arguments, **more: TRY)
    with served([runs["image"]]) as address:
        page, asked = browser.new_context().new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector(".panel")
        page.fill("#n", "1")
        assert draw(page) == "1 sample"
        page.wait_for_timeout(500)
        tried = json.loads(page.frame_locator(".out iframe").locator("#tried").text_content())
        assert tried == dict.fromkeys(
            ["page", "cookies", "storage", "window", "/runs", "http://127.0.0.1:9/"], "refused"
        )
        assert page.url.startswith(address.split("?")[0])
        assert "token" not in page.url
        page.context.close()


def test_a_link_of_another_site_opens_the_page_and_other_ports_get_no_cookie(browser, address):
    """Such as that of a terminal in a browser. Cookies are sent to all ports of a host, and strict ones to no site."""
    asked = []

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("cookie"))
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(f"<a href='{address}'>open</a>".encode())

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        page = browser.new_context().new_page()
        page.goto(f"http://localhost:{other.server_port}/")
        page.click("a")
        page.wait_for_selector(".panel")
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        page.context.close()
        other.shutdown()
    assert len(asked) >= 2
    assert asked == [None] * len(asked)


def test_a_file_is_still_there_after_many_strokes_in_it(page, tmp_path):
    choose(page, "image")
    Image.fromarray(numpy.full((8, 8), 90, numpy.uint8)).save(tmp_path / "own.png")
    files = page.evaluate_handle("new DataTransfer()")
    page.evaluate("files => files.items.add(new File(['no picture'], 'dropped.png'))", files)
    page.dispatch_event(".settings", "drop", {"dataTransfer": files})  # also where no file was asked for yet
    page.wait_for_selector("text=Starts from the file dropped.png.")
    page.set_input_files("input[name=file]", tmp_path / "own.png")
    page.wait_for_selector("text=Starts from the file own.png.")
    page.select_option("select[name=action]", "complete")
    fill = page.frame_locator(".widget iframe").locator("#fill")
    for _ in range(Limits().files + 1):
        fill.click()
    assert draw(page) == "2 samples"


def test_a_sample_of_another_size_is_varied_and_its_run_is_chosen_again(page):
    choose(page, "pointcloud")
    page.fill("input[name=size]", "64")
    assert draw(page) == "2 samples"
    button(page, "vary").click()
    page.wait_for_selector("text=Starts from sample 1 of the last drawing.")
    assert drawn(page) == "2 samples"
    assert not page.locator("input[name=size]").is_visible()
    page.select_option("select[name=run]", label="image")
    button(page, "vary", 1).click()
    page.wait_for_selector("text=Starts from sample 2 of the last drawing.")
    assert drawn(page) == "2 samples"
    assert page.locator("select[name=run] option:checked").text_content() == "pointcloud"


def test_a_kept_sample_stays_the_source_when_an_earlier_one_is_dropped(page):
    choose(page, "image")
    draw(page)
    for sample in range(2):
        button(page, "keep", sample).click()
        button(page, "drop", sample, "#kept").wait_for()
    button(page, "vary", 1, "#kept").click()
    page.wait_for_selector("text=Starts from kept sample 2.")
    drawn(page)
    button(page, "drop", 0, "#kept").click()
    button(page, "drop", 1, "#kept").wait_for(state="detached")
    assert draw(page) == "2 samples"
    button(page, "drop", 0, "#kept").click()
    page.locator("#kept").wait_for(state="hidden")
    assert "no longer kept" in draw(page)


def test_what_is_drawn_can_be_stopped_after_a_second_click(page):
    begin_long(page)
    page.click("#draw")
    page.wait_for_timeout(300)
    page.locator(".status:text-matches('drawing')").wait_for()
    assert page.locator("#stop").is_visible()
    page.click("#stop")
    assert drawn(page) == "stopped"
    page.evaluate("panels[0].draw(64, 1); panels[0].stop()")  # before the server knows of it
    page.wait_for_timeout(300)
    assert page.locator(".status").text_content() == "stopped"


def test_a_seed_that_javascript_cannot_hold_is_refused(page):
    page.fill("#seed", str(2**53 + 1))  # which would be sent as 2**53
    page.click("#draw")
    assert page.locator("#seed:invalid").count() == 1
    assert page.locator(".status").text_content() == ""


def test_the_values_at_the_beginning_are_those_of_the_run(page):
    for guidance in (12, 1.25, -1):
        found = page.evaluate(
            "g => { runs[0].guidance = g; panels[0].choose(1); panels[0].choose(0);"
            " return [panels[0].wanted(1, 0).guidance ?? null, panels[0].fields.guidance.value]; }",
            guidance,
        )
        assert found == [None, str(guidance)]


def test_conditions_may_be_called_as_the_fields_of_the_page(page):
    found = page.evaluate(
        """names => {
          runs[0].conditions = [...names.map((name) => ({ name, kind: "text", choices: [], quantiles: [], unit: "" })),
            { name: "mass", kind: "slider", choices: [], quantiles: [1, 2, 3], unit: "Da" }];
          panels[0].choose(1); panels[0].choose(0);
          panels[0].element.querySelectorAll(".conditions input[list]").forEach((input) => { input.value = "a"; });
          return panels[0].wanted(1, 0);
        }""",
        names := ["size", "action", "run", "solver", "steps", "file"],
    )
    assert found["conditions"] == dict.fromkeys(names, "a")
    assert (found["action"], found["size"], found["run"]) == ("draw", None, 0)
    assert page.get_by_label("mass (Da)", exact=True).get_attribute("placeholder") == "not asked for"
