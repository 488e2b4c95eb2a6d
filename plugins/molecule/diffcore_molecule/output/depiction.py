"""Depictions of molecules in two dimensions.

Samples that are not valid are drawn in grey. No sample that can be generated makes drawing fail. RDKit's module for
drawing needs libraries of the X window system, which slim container images lack; without them, sheets have legends but
no depictions.
"""

import io
import logging
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from rdkit import Chem
from rdkit.Chem import rdDepictor

from diffcore.errors import first_line
from diffcore_molecule.output.records import Record
from diffcore_molecule.output.scenes import principal

TILE = (240, 170)
"""Width and height of a depiction in a sheet, in pixels; its legend is below."""
_GREY = (150, 150, 150)
_FONT_SIZE, _LINE_HEIGHT, _MAX_LINES = 15, 18, 6
"""Font size and line height of legends, in pixels, and the largest number of lines."""

_UNDRAWN = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"><rect width="100%" height="100%" '
    'fill="white"/><text x="50%" y="50%" text-anchor="middle" font-family="sans-serif" font-size="11">'
    "libXrender or libXext is missing</text></svg>"
)
"""In place of a depiction, where RDKit cannot draw."""

logger = logging.getLogger(__name__)


@cache
def _rdkit_drawing() -> Any | None:
    """RDKit's module for drawing, or None, after a warning, if the libraries that it needs are missing."""
    try:
        return import_module("rdkit.Chem.Draw.rdMolDraw2D")
    except ImportError as error:
        logger.warning(
            "pictures of molecules show no structures, because RDKit cannot draw here (%s); on Debian and Ubuntu, "
            "`apt install libxrender1 libxext6` installs what it needs",
            first_line(error),
        )
        return None


def flat(record: Record) -> Chem.Mol:
    """The graph with 2D coordinates in the usual layout of chemists; empty if the bonds are unsafe for RDKit."""
    if record.unsafe_bonds:
        return Chem.Mol()
    mol = Chem.Mol(record.mol)
    try:
        if record.valid:
            Chem.SanitizeMol(mol)
            Chem.AssignStereochemistryFrom3D(mol)
            mol = Chem.RemoveHs(mol)
        rdDepictor.Compute2DCoords(mol)
        rdkit_drawing = _rdkit_drawing()
        return rdkit_drawing.PrepareMolForDrawing(mol) if record.valid and rdkit_drawing else mol
    except (ValueError, RuntimeError):  # RDKit found no layout: project the positions
        mol = Chem.Mol(record.mol)
        conformer = mol.GetConformer()
        conformer.SetPositions(principal(record.molecule.positions) * (1, 1, 0))
        conformer.Set3D(False)
        return mol


def drawing(record: Record, width: int, height: int, vector: bool = False) -> bytes:
    """A depiction on white as a PNG, or as an SVG if `vector`.

    If RDKit cannot draw here, the PNG is white, and the SVG says which libraries are missing.
    """
    rdkit_drawing = _rdkit_drawing()
    if rdkit_drawing is None:
        if vector:
            return _UNDRAWN.format(width=width, height=height).encode()
        blank = io.BytesIO()
        Image.new("RGB", (width, height), "white").save(blank, "PNG")
        return blank.getvalue()
    for mol in (flat(record), Chem.Mol()):  # an empty tile if RDKit cannot draw the graph
        pen = (rdkit_drawing.MolDraw2DSVG if vector else rdkit_drawing.MolDraw2DCairo)(width, height)
        options = pen.drawOptions()
        options.prepareMolsBeforeDrawing = False
        options.fixedBondLength = 32
        options.flagCloseContactsDist = -1
        if not record.valid:
            options.useBWAtomPalette()
            options.updateAtomPalette({-1: tuple(part / 255 for part in _GREY)})
        try:
            pen.DrawMolecule(mol)
        except (ValueError, RuntimeError):
            continue
        pen.FinishDrawing()
        text = pen.GetDrawingText()
        return text.encode() if isinstance(text, str) else text
    raise ValueError("RDKit cannot draw an empty tile")


def drawing_of_atoms(record: Record, width: int, height: int) -> tuple[str, list[tuple[str, float, float]]]:
    """A depiction of all atoms as SVG, and the symbol and the place in pixels of each, in the order of the sample.

    If RDKit cannot draw here, the SVG says which libraries are missing, and the atoms are in rows.
    """
    mol, rdkit_drawing = Chem.Mol(record.mol), _rdkit_drawing()
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    rows = [(symbol, 20.0 + 30 * (k % 10) % width, 20.0 + 30 * (k // 10)) for k, symbol in enumerate(symbols)]
    if rdkit_drawing is None:
        return _UNDRAWN.format(width=width, height=height), rows
    pen = rdkit_drawing.MolDraw2DSVG(width, height)
    pen.drawOptions().prepareMolsBeforeDrawing = False
    pen.drawOptions().padding = 0.1
    try:
        rdDepictor.Compute2DCoords(mol)
        pen.DrawMolecule(mol)
        places = [pen.GetDrawCoords(index) for index in range(mol.GetNumAtoms())]
    except (ValueError, RuntimeError):
        return _UNDRAWN.replace("libXrender or libXext is missing", "").format(width=width, height=height), rows
    pen.FinishDrawing()
    drawn = pen.GetDrawingText()
    return drawn[drawn.index("<svg") :], [
        (symbol, place.x, place.y) for symbol, place in zip(symbols, places, strict=True)
    ]


def sheet(records: Sequence[Record], legends: Sequence[str], columns: int) -> Image.Image:
    """A picture of the depictions in rows of `columns`, each with its legend below."""
    columns = max(1, min(columns, len(records)))
    width, height = TILE
    font = ImageFont.load_default(_FONT_SIZE)
    lines = [wrapped(legend, width - 8, font.getlength)[:_MAX_LINES] for legend in legends]
    legend_height = _LINE_HEIGHT * max(map(len, lines), default=0) + 6
    rows = max(1, -(-len(records) // columns))
    canvas = Image.new("RGB", (columns * width, rows * (height + legend_height)), "white")
    pen = ImageDraw.Draw(canvas)
    for index, record in enumerate(records):
        left, top = index % columns * width, index // columns * (height + legend_height)
        with Image.open(io.BytesIO(drawing(record, width, height))) as picture:
            canvas.paste(picture.convert("RGB"), (left, top))
        for row, line in enumerate(lines[index]):
            position = (left + (width - font.getlength(line)) / 2, top + height + row * _LINE_HEIGHT)
            pen.text(position, line, fill="black" if record.valid else _GREY, font=font)
    return canvas


def wrapped(text: str, width: float, length: Callable[[str], float]) -> list[str]:
    """The lines of `text`, wrapped to `width`: at a space if there is one, else within a word."""
    lines = []
    for line in text.split("\n"):
        while length(line) > width and len(line) > 1:
            fits = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or length(line[:n]) <= width)
            blank = line.rfind(" ", 1, fits + 1)
            at = blank if blank > 0 else fits
            lines.append(line[:at])
            line = line[at:].lstrip()
        lines.append(line)
    return lines
