"""A page of HTML that needs no network: readable on a phone, in dark and in light, and by a screen reader."""

from collections.abc import Sequence
from html import escape

from diffcore.evaluation.viewer import once

_STYLE = """
:root { color-scheme: light dark; --text: #222; --soft: #555; --line: #ddd; --raised: #f6f6f6; --bar: #2563eb;
  --real: #9ca3af; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e5e5e5; --soft: #a3a3a3; --line: #404040; --raised: #262626; --bar: #60a5fa; --real: #6b7280; }
  body { background: #171717; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: var(--text); }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; list-style: none; font-size: .9rem; }
a { color: var(--bar); }
section { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left; font-weight: normal; }
thead th { font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } td.best { font-weight: 600; }
.bars { display: block; width: 7rem; }
.bars span { display: block; height: .45rem; margin: .15rem 0; border-radius: 2px; }
.bars .own { background: var(--bar); } .bars .real { background: var(--real); }
img { image-rendering: pixelated; max-width: 100%; }
pre { background: var(--raised); padding: 1rem; overflow-x: auto; }
svg { max-width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
@media (max-width: 40rem) { body { margin: 1rem auto; } td, th { padding: .25rem .4rem; } }
"""


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """An HTML page of sections, each a title and an HTML fragment, with a list of links to them."""
    numbered = [(f"section-{number}", name, fragment) for number, (name, fragment) in enumerate(sections, 1)]
    links = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name, _ in numbered)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title" tabindex="-1">'
        f'<h2 id="{key}-title">{escape(name)}</h2>\n{fragment}\n</section>\n'
        for key, name, fragment in numbered
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>\n{once(body)}</main></body></html>\n'
    )
