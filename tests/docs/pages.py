"""The pages of the documentation: their blocks of code, their links and their headings."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]


@dataclass(frozen=True)
class Block:
    """A fenced block, with the line at which it begins and the file that it is a part of, if any."""

    page: Path
    line: int
    language: str
    title: str | None
    content: str

    def __str__(self) -> str:
        return f"{named(self.page)}:{self.line}"


def named(page: Path) -> str:
    """The path of the page in the repository."""
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name


def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for token in _tokens(page):
        if token.type == "fence":
            language, _, rest = token.info.strip().partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            found.append(Block(page, token.map[0] + 1, language, title and title[1], token.content))
    return found


def links(page: Path) -> list[str]:
    """The targets of the links and pictures of a page."""
    inline = [child for token in _tokens(page) for child in token.children or ()]
    targets = [child.attrGet("href") or child.attrGet("src") for child in inline]
    return [str(target) for target in targets if target]


def anchors(page: Path) -> set[str]:
    """The slugs of the headings, as GitHub and MkDocs make them."""
    tokens = _tokens(page)
    headings = [
        "".join(child.content for child in after.children if child.type in ("text", "code_inline"))
        for token, after in itertools.pairwise(tokens)
        if token.type == "heading_open"
    ]
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}
