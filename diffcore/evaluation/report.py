"""The parts of the report of a run, as fragments of HTML."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from diffcore.plugins.output import Metric
from diffcore.runs.data_record import KINDS

REAL = "_real"
"""The end of the name of a metric that is the same for real examples."""


def metrics_table(metrics: Sequence[Metric]) -> str:
    """An HTML table of the name, the value and the meaning of each metric.

    A metric that has been measured on real examples too has bars of both values, on one scale from zero.
    """
    if not metrics:
        return "<p>No metrics yet: run <code>diffcore evaluate</code>.</p>"
    values = {metric.name: metric.value for metric in metrics}
    rows = "".join(
        f'<tr><th scope="row">{escape(metric.name)}</th><td class="number">{metric.value:.4g}</td>'
        f"<td>{bars(metric.value, values.get(metric.name + REAL))}</td><td>{escape(metric.meaning)}</td></tr>"
        for metric in metrics
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("metric", "value", "beside real examples", "what it is"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def bars(value: float, real: float | None) -> str:
    """Two bars, of a value and of that of real examples; nothing without the latter, and for negative values."""
    if real is None or not (math.isfinite(value) and math.isfinite(real) and value >= 0 and real >= 0):
        return ""
    largest = max(value, real) or 1.0
    parts = [("own", value), ("real", real)]
    drawn = "".join(f'<span class="{kind}" style="width:{100 * each / largest:.1f}%"></span>' for kind, each in parts)
    return f'<span class="bars" role="img" aria-label="{value:.4g}, real {real:.4g}">{drawn}</span>'


def facts_table(facts: Mapping[str, object]) -> str:
    """An HTML table of names and values."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>' for name, value in facts.items()
    )
    return f"<table>{rows}</table>"


MOST_NAMES = 2000
"""The number of names of files for each reason in a report; data.json has the others."""


def data_section(record: Mapping[str, Any]) -> str:
    """The record of the data as HTML: a table, the examples of each class, and the names of files by reason."""
    facts = {"data set": record["data"]}
    if record["place"]:
        facts["place"] = f"{record['found']} {record['what']} in {record['place']}"
    facts |= {"training": record["training"], "held out": record["held_out"], **record["about"]}
    if record["layout"]:
        facts["classes"] = record["layout"]
    parts = [facts_table(facts)]
    for condition, classes in record["classes"].items():
        rows = "".join(
            f'<tr><th>{escape(name)}</th><td class="number">{training}</td><td class="number">{held_out}</td></tr>'
            for name, (training, held_out) in classes.items()
        )
        head = f"<tr><th>{escape(condition)}</th><th>training</th><th>held out</th></tr>"
        parts.append(folded(f"{len(classes)} classes", f"<table>{head}{rows}</table>"))
    for key, title in KINDS.items():
        for reason, entry in record[key].items():
            names = [str(name) for name in entry["names"][:MOST_NAMES]]
            line = f"{title}: {reason}: {entry['count']}"
            more = f"\n… and {entry['count'] - len(names)} more" if names and entry["count"] > len(names) else ""
            parts.append(folded(line, preformatted("\n".join(names) + more)) if names else f"<p>{escape(line)}</p>")
    return "\n".join([*parts, *(f"<p>{escape(note)}</p>" for note in record["notes"])])


def folded(title: str, fragment: str) -> str:
    """An HTML fragment that a click on its title shows."""
    return f"<details><summary>{escape(title)}</summary>\n{fragment}\n</details>"


def preformatted(text: str) -> str:
    """Text as an HTML fragment that preserves spaces and line breaks."""
    return f"<pre>{escape(text)}</pre>"


def curve(points: Sequence[tuple[float, float]], x_label: str, y_label: str) -> str:
    """A line through `points` as SVG, labelled with the smallest and the largest value of each axis."""
    if len(points) < 2:
        return "<p>Too few measurements for a curve.</p>"
    return curves({"": points}, x_label, y_label)


COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed")


def curves(series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """Lines through the points of each series as SVG, on the same axes, each with its name in its colour.

    Where there are several series, their points are marked, with the values of both axes.
    """
    width, height, left, bottom = 860, 280, 70, 30
    xs, ys = zip(*(point for points in series.values() for point in points), strict=True)
    first, low, high = min(xs), min(ys), max(ys)
    span_x, span_y = (max(xs) - first) or 1, (high - low) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (x - first) / span_x * (width - left - 10)
        return across, 10 + (high - y) / span_y * (height - bottom - 20)

    drawn = []
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [(*place(x, y), x, y) for x, y in points]
        line = " ".join(f"{across:.1f},{down:.1f}" for across, down, _, _ in placed)
        drawn.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(series) > 1:
            drawn += [
                f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{colour}">'
                f"<title>{escape(name)}: {y:.4g} at {x:g}</title></circle>"
                for across, down, x, y in placed
            ]
            drawn.append(f'<text x="{left + 8}" y="{34 + 16 * number}" style="fill: {colour}">{escape(name)}</text>')
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(y_label)} over {escape(x_label)}">'
        f'<path d="M{left},5 V{height - bottom} H{width}" fill="none" stroke="currentColor" opacity="0.4"/>'
        f"{''.join(drawn)}"
        f'<text x="{left - 8}" y="16" text-anchor="end">{high:.4g}</text>'
        f'<text x="{left - 8}" y="{height - bottom}" text-anchor="end">{low:.4g}</text>'
        f'<text x="{left}" y="{height - 8}">{first:g}</text>'
        f'<text x="{width}" y="{height - 8}" text-anchor="end">{max(xs):g} {escape(x_label)}</text>'
        f'<text x="{left + 8}" y="16">{escape(y_label)}</text></svg>'
    )
