"""Molecules in two dimensions.

What is not valid is drawn too, in grey: nothing that can be generated stops a picture.
"""

import io
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from diffcore_molecule.output.records import Record
from diffcore_molecule.output.scenes import principal

TILE = (240, 170)
"""Pixels of a depiction in a sheet; its legend stands below."""
_GREY = (150, 150, 150)
_LETTERS, _LINE, _MOST_LINES = 15, 18, 6
"""Size of letters and height of lines of legends, in pixels, and how many lines there may be."""


def flat(record: Record) -> Chem.Mol:
    """The graph with places in two dimensions: of a valid molecule as chemists draw it, of a knot nothing."""
    if record.knot:
        return Chem.Mol()
    mol = Chem.Mol(record.mol)
    try:
        if record.valid:
            Chem.SanitizeMol(mol)
            Chem.AssignStereochemistryFrom3D(mol)
            mol = Chem.RemoveHs(mol)
        rdDepictor.Compute2DCoords(mol)
        return rdMolDraw2D.PrepareMolForDrawing(mol) if record.valid else mol
    except (ValueError, RuntimeError):  # without a layout, the shadow of the places
        mol = Chem.Mol(record.mol)
        conformer = mol.GetConformer()
        conformer.SetPositions(principal(record.molecule.positions) * (1, 1, 0))
        conformer.Set3D(False)
        return mol


def drawing(record: Record, width: int, height: int, vector: bool = False) -> bytes:
    """A PNG, or as `vector` an SVG, on white."""
    for mol in (flat(record), Chem.Mol()):  # where a graph cannot be drawn, a tile without one
        pen = (rdMolDraw2D.MolDraw2DSVG if vector else rdMolDraw2D.MolDraw2DCairo)(width, height)
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
    raise ValueError("RDKit draws no empty tile")


def sheet(records: Sequence[Record], legends: Sequence[str], columns: int) -> Image.Image:
    """Depictions in rows of `columns`, each with its legend below."""
    columns = max(1, min(columns, len(records)))
    width, height = TILE
    font = ImageFont.load_default(_LETTERS)
    lines = [wrapped(legend, width - 8, font.getlength)[:_MOST_LINES] for legend in legends]
    below = _LINE * max(map(len, lines), default=0) + 6
    rows = max(1, -(-len(records) // columns))
    canvas = Image.new("RGB", (columns * width, rows * (height + below)), "white")
    pen = ImageDraw.Draw(canvas)
    for index, record in enumerate(records):
        left, top = index % columns * width, index // columns * (height + below)
        with Image.open(io.BytesIO(drawing(record, width, height))) as picture:
            canvas.paste(picture.convert("RGB"), (left, top))
        for row, line in enumerate(lines[index]):
            place = (left + (width - font.getlength(line)) / 2, top + height + row * _LINE)
            pen.text(place, line, fill="black" if record.valid else _GREY, font=font)
    return canvas


def wrapped(text: str, width: float, length: Callable[[str], float]) -> list[str]:
    """Lines of `text`, broken where they are longer than `width`: at a blank where there is one, else anywhere."""
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
