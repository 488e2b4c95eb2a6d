"""Pages that compare runs, and the bars of metrics."""

from html.parser import HTMLParser

import pytest

import diffcore
from diffcore.cli import main
from diffcore.evaluation.comparison import ComparedRun, comparison
from diffcore.evaluation.page import page
from diffcore.evaluation.report import bars, metrics_table
from diffcore.plugins.output import Metric


class Cells(HTMLParser):
    """The texts of the cells of all tables, row by row, and all tags."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self._open = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._open = tag in ("td", "th")

    def handle_data(self, text):
        if self._open:
            self.rows[-1][-1] += text

    def handle_endtag(self, tag):
        self._open = False


def run(name, metrics, settings, pictures=lambda: [("Samples", "<p>shown</p>")]):
    return ComparedRun(name, [Metric(*each, "") for each in metrics], [(0, 3.0), (10, 1.0)], settings, pictures)


def broken():
    raise ValueError("no picture <today>")


def test_runs_are_columns_and_what_is_the_same_is_left_out():
    first = run("a", [("x", 0.5), ("y", 2)], {"seed": 0, "denoiser": {"name": "unet", "width": 8, "deep": 1}})
    second = run(
        "b<i>", [("x", 0.25)], {"seed": 1, "denoiser": {"name": "dit", "width": 16}, "only": {"here": 3}}, broken
    )
    found = Cells(text := comparison([first, second]))
    assert found.rows == [
        ["metric", "a", "b<i>"],
        ["x", "0.5", "0.25"],
        ["y", "2", ""],
        ["setting", "a", "b<i>"],
        ["seed", "0", "1"],
        ["denoiser.name", "unet", "dit"],
        ["only.here", "", "3"],
    ]
    assert ("i", {}) not in found.tags
    assert "no picture &lt;today&gt;" in text
    assert "<p>shown</p>" in text


def test_runs_that_are_the_same():
    text = comparison([run("a", [], {"seed": 0}), run("b", [], {"seed": 0})])
    assert "All settings are the same." in text
    assert "No metrics yet" in text


def test_bars_have_one_scale_from_zero():
    found = [attributes["style"] for tag, attributes in Cells(bars(2.0, 8.0)).tags if "style" in attributes]
    assert found == ["width:25.0%", "width:100.0%"]
    assert bars(0.0, 0.0)
    for value, real in ((1.0, None), (-1.0, 2.0), (float("nan"), 1.0), (1.0, float("inf"))):
        assert bars(value, real) == ""
    table = metrics_table([Metric("x", 1, "m"), Metric("x_real", 2, "m"), Metric("y", 1, "m")])
    assert table.count('class="bars"') == 1


def test_a_page_can_be_navigated_and_names_do_nothing():
    found = Cells(page("t<script>", [("One <b>", "<p>1</p>"), ("Two", "<p>2</p>")]))
    tags = [tag for tag, _ in found.tags]
    assert "script" not in tags
    assert "b" not in tags
    targets = [attributes["href"] for tag, attributes in found.tags if tag == "a"]
    sections = [attributes for tag, attributes in found.tags if tag == "section"]
    assert targets == [f"#{each['id']}" for each in sections]
    headings = {attributes["id"] for tag, attributes in found.tags if tag == "h2"}
    assert {each["aria-labelledby"] for each in sections} == headings
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in found.tags


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("first", 2), ("second", 3)):
        settings = {"steps": steps, "batch_size": 8, "evaluate": 0}
        network = {"name": "dit", "width": 16, "depth": 1, "heads": 2}
        diffcore.train("image", data="digits", denoiser=network, train=settings, out=folder / name)
    return folder


def test_the_command(runs, tmp_path, capsys):
    report = runs / "first" / "report.html"
    report.unlink()
    assert main(["report", str(runs / "first"), "--seed", "3"]) == 0
    assert "diffcore train --modality image --config run.toml" in report.read_text()
    out = tmp_path / "pages" / "both.html"
    both = [str(runs / "first"), str(runs / "second")]
    assert main(["report", *both, "--out", str(out)]) == 0
    assert ["train.steps", "2", "3"] in Cells(out.read_text()).rows
    assert out.read_text().count("data:image/png") == 2
    capsys.readouterr()
    assert main(["report", *both, "--out", str(out)]) == 2
    assert "exists already: choose another --out" in capsys.readouterr().err
    assert main(["report", both[0], "--out", str(out)]) == 2
    assert "--out is for the page that compares several runs" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
