"""A page that shows several runs side by side: metrics, settings that differ, losses and samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from diffcore.errors import RAISED_BY_PLUGINS, told
from diffcore.evaluation.page import page
from diffcore.evaluation.report import curves, preformatted
from diffcore.plugins.output import Metric


@dataclass(frozen=True)
class ComparedRun:
    """A run on the page.

    * `name`: what it is called there.
    * `metrics`: those of its last evaluation.
    * `losses`: the step and the loss of each line of its log.
    * `settings`: its settings, as values of JSON.
    * `pictures`: makes the titles and the HTML of its pictures. If it fails, the reason is shown.
    """

    name: str
    metrics: Sequence[Metric]
    losses: Sequence[tuple[float, float]]
    settings: Mapping[str, Any]
    pictures: Callable[[], Sequence[tuple[str, str]]]


def comparison(runs: Sequence[ComparedRun]) -> str:
    """The page, with the runs in their order."""
    sections = [("Metrics", metrics_of(runs))]
    drawn = {run.name: run.losses for run in runs if len(run.losses) > 1}
    if drawn:
        sections.append(("Loss", curves(drawn, "steps", "loss")))
    sections += [(f"Samples of {run.name}", _pictures(run)) for run in runs]
    sections.append(("Settings that differ", differences_of(runs)))
    return page(" and ".join(run.name for run in runs), sections)


def metrics_of(runs: Sequence[ComparedRun]) -> str:
    """A table with a row for each metric that any of the runs has, and a column for each run."""
    names = dict.fromkeys(metric.name for run in runs for metric in run.metrics)
    if not names:
        return "<p>No metrics yet: run <code>diffcore evaluate</code>.</p>"
    values = [{metric.name: metric.value for metric in run.metrics} for run in runs]
    return _table(
        "metric", runs, {name: [f"{each[name]:.4g}" if name in each else "" for each in values] for name in names}
    )


def differences_of(runs: Sequence[ComparedRun]) -> str:
    """A table of the settings that are not the same in all runs.

    Where runs have different parts, such as denoisers, only their names are shown, as their options differ anyway.
    """
    flat = [dict(_flat(run.settings)) for run in runs]
    names = dict.fromkeys(name for each in flat for name in each)
    rows = {name: [str(each.get(name, ""))[:200] for each in flat] for name in names}
    differing = {name: row for name, row in rows.items() if len(set(row)) > 1}
    parts = {name.removesuffix("name") for name in differing if name.endswith(".name")}
    differing = {
        name: row
        for name, row in differing.items()
        if name.endswith(".name") or not any(name.startswith(part) for part in parts)
    }
    return _table("setting", runs, differing) if differing else "<p>All settings are the same.</p>"


def _table(what: str, runs: Sequence[ComparedRun], rows: Mapping[str, Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in (what, *(run.name for run in runs)))
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, cells in rows.items()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _flat(table: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """The values of nested tables by their names with dots."""
    found: list[tuple[str, Any]] = []
    for name, value in table.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else [(before + name, value)]
    return found


def _pictures(run: ComparedRun) -> str:
    try:
        return "".join(f"<h3>{escape(title)}</h3>\n{html}\n" for title, html in run.pictures())
    except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception; the rest is still shown
        return preformatted(told(error))
