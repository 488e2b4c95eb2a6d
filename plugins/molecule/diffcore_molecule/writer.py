"""Molecules to SDF, SMILES and pictures, and to the report."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy
from rdkit import Chem

from diffcore import viewer
from diffcore.output import Asked
from diffcore_molecule.depiction import drawing, sheet
from diffcore_molecule.molecules import Molecule
from diffcore_molecule.records import Record, records
from diffcore_molecule.scenes import scene

_WIDEST = 9999.0
"""V2000 has ten characters for a coordinate: from here on (Angstrom) V3000 is written."""


class MoleculeWriter:
    """Samples are lists of `Molecule`."""

    endings = (".png", ".sdf", ".smi")

    def each(self, samples: Sequence[Molecule], folder: Path, names: Sequence[str], asked: Asked = ()) -> list[Path]:
        """Each sample as an SDF file of one record, as `together` writes it."""
        paths = [folder / f"{name}.sdf" for name in names]
        for path, name, (one, words) in zip(paths, names, _with_words(samples, asked), strict=True):
            path.write_text(sdf(one, name, words), encoding="utf-8")
        return paths

    def together(self, samples: Sequence[Molecule], path: Path, columns: int, asked: Asked = ()) -> None:
        """All samples in one file.

        `.sdf` has a record for each sample, named by its number from 1, those that are not valid too (`VALID` 0 and a
        `REASON`). `.smi` has the valid ones alone, as lines of a canonical SMILES and the number: a reader would
        stop at anything else. `.png` is a sheet of depictions.
        """
        told = _with_words(samples, asked)
        match path.suffix.lower():
            case ".sdf":
                text = "".join(sdf(one, str(k), words) for k, (one, words) in enumerate(told, 1))
                path.write_text(text, encoding="utf-8")
            case ".smi":
                path.write_text("".join(f"{one.smiles} {k}\n" for k, (one, _) in enumerate(told, 1) if one.valid))
            case _:
                sheet([one for one, _ in told], [legend(one, words) for one, words in told], columns).save(path)

    def html(self, samples: Sequence[Molecule], columns: int, asked: Asked = ()) -> str:
        """Depictions, and the samples in 3D below; samples are numbered, the same in both."""
        told = _with_words(samples, asked)
        tiles = "".join(_tile(k, one, legend(one, words)) for k, (one, words) in enumerate(told, 1))
        scenes = [
            scene(one.molecule, f"{k}" + ("" if one.valid else ", not valid")) for k, (one, _) in enumerate(told, 1)
        ]
        columns = max(1, min(columns, len(told)))
        style = (
            f"display:grid;grid-template-columns:repeat({columns},minmax(5rem,1fr));gap:.5rem;"
            f"overflow-x:auto;margin-bottom:1rem"
        )
        return f'<div style="{style}">{tiles}</div>{viewer.html(scenes, columns)}'


def sdf(record: Record, name: str, asked: Mapping[str, str]) -> str:
    """A record of an SDF file: the graph and places as generated, Kekule bonds, and data fields.

    The fields are VALID (1 or 0), REASON where it is 0, SMILES, the properties, and `asked_NAME` for each condition.
    """
    record.mol.SetProp("_Name", _line(name))
    wide = bool((numpy.abs(record.molecule.positions) >= _WIDEST).any())
    fields = {"VALID": str(int(record.valid)), "REASON": record.fault, "SMILES": record.smiles}
    fields |= {property: f"{value:.6g}" for property, value in record.properties.items()}
    for condition, words in asked.items():
        fields[f"asked_{condition}"] = words
    # An empty value would end the record's fields for some readers.
    data = "".join(f">  <{field}>\n{_line(value)}\n\n" for field, value in fields.items() if value.strip())
    return Chem.MolToMolBlock(record.mol, kekulize=False, forceV3000=wide) + data + "$$$$\n"


def legend(record: Record, asked: Mapping[str, str]) -> str:
    """Lines: the SMILES or that the sample is not valid, then what was asked and what was obtained."""
    lines = [record.smiles if record.valid else "not valid", "" if record.valid else record.fault]
    for condition, words in asked.items():
        value = record.properties.get(condition)
        lines.append(f"{condition}: asked {words}" + ("" if value is None else f", got {value:.3g}"))
    return "\n".join(line for line in lines if line)


def _with_words(samples: Sequence[Molecule], asked: Asked) -> list[tuple[Record, Mapping[str, str]]]:
    return list(zip(records(samples, asked), asked or [{}] * len(samples), strict=True))


def _line(text: str) -> str:
    return " ".join(text.split())


def _tile(number: int, record: Record, words: str) -> str:
    picture = base64.b64encode(drawing(record, 200, 160, vector=True)).decode()
    lines = escape(words).replace("\n", "<br>")
    return (
        f'<figure style="margin:0;min-width:0;font-size:.7rem;line-height:1.3;overflow-wrap:anywhere">'
        f'<img alt="{escape(words)}" src="data:image/svg+xml;base64,{picture}" style="width:100%;border-radius:4px">'
        f"<figcaption>{number}: {lines}</figcaption></figure>"
    )
