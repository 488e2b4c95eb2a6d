"""Links of the pages: files and headings exist, and addresses are well-formed."""

import re
from urllib.parse import urlsplit

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, links, named

OUTSIDE = {"https"}


def wrong(page, link):
    """The error of a link, or None."""
    address = urlsplit(link)
    if address.scheme:
        sound = address.scheme in OUTSIDE and re.fullmatch(r"([\w-]+\.)+[a-z]{2,}", address.netloc)
        return None if sound else "no address"
    target = (page.parent / address.path).resolve() if address.path else page
    if not target.exists():
        return "no such file"
    if not target.is_relative_to(ROOT):
        return "outside of the repository"
    if address.fragment and address.fragment not in anchors(target):
        return "no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    assert not [(link, reason) for link in links(page) if (reason := wrong(page, link))]


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("docs/design.md", None),
        ("docs/design.md#packages", None),
        ("https://example.org/x", None),
        ("docs/desing.md", "no such file"),
        ("docs/design.md#rooms", "no such heading"),
        ("../", "outside of the repository"),
        ("http//example.org", "no such file"),
        ("ftp://example.org", "no address"),
        ("https://example", "no address"),
    ],
)
def test_what_is_wrong_with_a_link(link, reason):
    assert wrong(ROOT / "README.md", link) == reason


def test_every_page_of_the_site_is_in_its_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    pages = [str(page.relative_to(ROOT / "docs")) for page in sorted((ROOT / "docs").rglob("*.md"))]
    assert not [page for page in pages if not re.search(rf"[ :-] {re.escape(page)}$", menu, re.MULTILINE)]
