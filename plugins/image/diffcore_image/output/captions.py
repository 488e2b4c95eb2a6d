"""Text on images: a font that has the characters, and lines that fit into a width."""

from collections.abc import Iterator
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_SIZE = 12
"""Size of the font in pixels."""
_FAMILIES = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "Arial Unicode.ttf", "msgothic.ttc", "msyh.ttc", "malgun.ttf"),
)
"""Fonts of Linux, macOS and Windows, which are tried for characters that Pillow's own font lacks."""


_MOST_LINES = 6
"""A caption has at most so many lines."""


@lru_cache(maxsize=1024)
def fitted(text: str, width: int) -> tuple[tuple[str, ...], Font]:
    r"""The text in lines of at most `width` pixels, and a font for it.

    Lines end between words. A word that is longer than a line is cut, and so is what does not fit into the last line;
    an ellipsis shows it. Pillow's own font has only the characters of ASCII. For others, a font of the system is used:
    the one that lacks the fewest. Characters that it lacks are written as `\u732b`.
    """
    font = min(_fonts(), key=lambda font: sum(_lacks(font, char) for char in text))
    escaped = "".join(char.encode("unicode_escape").decode() if _lacks(font, char) else char for char in text)
    lines: list[str] = []
    for word in escaped.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and (font.getlength(longer) <= width or len(lines) == _MOST_LINES):
            lines[-1] = longer
        else:
            lines.append(word)
    return tuple(_shortened(line, font, width) for line in lines), font


def _fonts() -> Iterator[Font]:
    yield ImageFont.load_default(_SIZE)
    for name in _FAMILIES:
        try:
            yield ImageFont.truetype(name, _SIZE)
        except OSError:  # this system does not have it
            continue


def _lacks(font: Font, char: str) -> bool:
    """Whether a font draws the same sign for a character as for one that does not exist."""
    return not char.isascii() and bytes(font.getmask(char)) == bytes(font.getmask("\uffff"))


def _shortened(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
