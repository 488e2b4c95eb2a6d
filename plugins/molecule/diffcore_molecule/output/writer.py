"""Molecules to SDF, SMILES and pictures, and to the report."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy
from rdkit import Chem

from diffcore.evaluation import viewer
from diffcore.plugins.output import Captions
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.codec import MoleculeCodec
from diffcore_molecule.output.depiction import drawing, sheet
from diffcore_molecule.output.records import Record, records
from diffcore_molecule.output.scenes import axes, scene


class MoleculeWriter:
    """Samples are lists of `Molecule`."""

    endings = (".png", ".sdf", ".smi")

    def __init__(self, codec: MoleculeCodec) -> None:
        self._hydrogens = codec.facts.hydrogens

    def each(
        self, samples: Sequence[Molecule], folder: Path, names: Sequence[str], captions: Captions = ()
    ) -> list[Path]:
        """Each sample as an SDF file of one record, as `together` writes it."""
        paths = [folder / f"{name}.sdf" for name in names]
        for path, name, (one, words) in zip(paths, names, self._with_words(samples, captions), strict=True):
            path.write_text(sdf(one, name, words), encoding="utf-8")
        return paths

    def together(self, samples: Sequence[Molecule], path: Path, columns: int, captions: Captions = ()) -> None:
        """All samples in one file.

        `.sdf` has a record for each sample, named by its number from 1, those that are not valid too (`VALID` 0 and a
        `REASON`). `.smi` has the valid ones alone, as lines of a canonical SMILES and the number: a reader would
        stop at anything else. `.png` is a sheet of depictions.
        """
        told = self._with_words(samples, captions)
        match path.suffix.lower():
            case ".sdf":
                text = "".join(sdf(one, str(k), words) for k, (one, words) in enumerate(told, 1))
                path.write_text(text, encoding="utf-8")
            case ".smi":
                path.write_text("".join(f"{one.smiles} {k}\n" for k, (one, _) in enumerate(told, 1) if one.valid))
            case _:
                sheet([one for one, _ in told], [legend(one, words) for one, words in told], columns).save(path)

    def html(
        self, samples: Sequence[Molecule], columns: int, captions: Captions = (), trajectories: bool = False
    ) -> str:
        """Depictions, and the samples in 3D below; samples are numbered, the same in both.

        Each is turned by itself, but `trajectories` as their ends are, so that one sees atoms move.
        """
        told = self._with_words(samples, captions)
        tiles = "".join(_tile(k, one, legend(one, words)) for k, (one, words) in enumerate(told, 1))
        columns = max(1, min(columns, len(told)))
        ends = [told[k - k % columns + columns - 1 if trajectories else k][0] for k in range(len(told))]
        scenes = [_scene(k, one, end) for k, ((one, _), end) in enumerate(zip(told, ends, strict=True), 1)]
        style = (
            f"display:grid;grid-template-columns:repeat({columns},minmax(5rem,1fr));gap:.5rem;"
            f"overflow-x:auto;margin-bottom:1rem"
        )
        return f'<div style="{style}">{tiles}</div>{viewer.html(scenes, columns)}'

    def summary(self, samples: Sequence[Molecule], captions: Captions = ()) -> list[str]:
        """How many samples are valid, and what these have of the properties that all were asked for."""
        told = self._with_words(samples, captions)
        valid = sum(one.valid for one, _ in told)
        names = dict.fromkeys(name for words in captions for name in words)
        lines = (_compared(name, told) for name in names)
        return [f"{valid} of {len(told)} samples are valid", *(line for line in lines if line)]

    def _with_words(self, samples: Sequence[Molecule], captions: Captions) -> list[tuple[Record, Mapping[str, str]]]:
        return list(zip(records(samples, self._hydrogens, captions), captions or [{}] * len(samples), strict=True))


def _compared(name: str, told: Sequence[tuple[Record, Mapping[str, str]]]) -> str:
    """What was asked of a property beside what was obtained; nothing where no sample has a value."""
    pairs = [
        (float(words[name]), one.properties[name])
        for one, words in told
        if {name} <= words.keys() & one.properties.keys()
    ]
    if not pairs:
        return ""
    asked, obtained = numpy.array(pairs).T
    wanted = f"{asked.min():.4g}" if asked.min() == asked.max() else f"{asked.min():.4g} to {asked.max():.4g}"
    return (
        f"{name}: asked {wanted}, obtained {obtained.mean():.4g} +- {obtained.std():.3g} "
        f"(mean and standard deviation of {len(pairs)} valid of {len(told)}), "
        f"off by {numpy.abs(asked - obtained).mean():.3g} on average"
    )


def sdf(record: Record, name: str, asked: Mapping[str, str]) -> str:
    """A record of an SDF file: the graph and places as generated, Kekule bonds, and data fields.

    A molfile V2000, or V3000 where V2000 has no room for the places (beyond 10,000 Angstrom) or the atoms (999).

    The fields are VALID (1 or 0), REASON where it is 0, SMILES, the properties, and `asked_NAME` for each condition.
    The bonds of a knot, which readers may not survive, are not in the graph but in the field BONDS, as lines of two
    atoms (from 1) and an order.
    """
    fields = {"VALID": str(int(record.valid)), "REASON": _line(record.fault), "SMILES": record.smiles}
    fields |= {property: f"{value:.6g}" for property, value in record.properties.items()}
    fields |= {f"asked_{condition}": _line(words) for condition, words in asked.items()}
    if record.knot:
        bonds = record.molecule.bonds
        ends = zip(*numpy.triu(bonds, 1).nonzero(), strict=True)
        fields["BONDS"] = "\n".join(f"{i + 1} {j + 1} {bonds[i, j]}" for i, j in ends)
    data = "".join(f">  <{field}>\n{value}\n\n" for field, value in fields.items() if value)
    _, _, block = Chem.MolToMolBlock(record.mol, kekulize=False).partition("\n")
    return f"{_line(name)}\n{block}{data}$$$$\n"


def legend(record: Record, asked: Mapping[str, str]) -> str:
    """Lines: the SMILES or that the sample is not valid, then what was asked and what was obtained."""
    lines = [record.smiles if record.valid else "not valid", "" if record.valid else record.fault]
    for condition, words in asked.items():
        value = record.properties.get(condition)
        lines.append(f"{condition}: asked {words}" + ("" if value is None else f", got {value:.3g}"))
    return "\n".join(line for line in lines if line)


def _scene(number: int, record: Record, turned_as: Record) -> viewer.Scene:
    """The sample in space, turned as another is; of a knot the atoms alone."""
    caption = f"{number}" if record.valid else f"{number}, not valid"
    bonds = numpy.zeros_like(record.molecule.bonds) if record.knot else record.molecule.bonds
    return scene(replace(record.molecule, bonds=bonds), caption, axes(turned_as.molecule.positions))


def _line(text: str) -> str:
    return " ".join(text.split())


def _tile(number: int, record: Record, words: str) -> str:
    picture = base64.b64encode(drawing(record, 200, 160, vector=True)).decode()
    lines = escape(words).replace("\n", "<br>")
    return (
        f'<metric style="margin:0;min-width:0;font-size:.7rem;line-height:1.3;overflow-wrap:anywhere">'
        f'<img alt="{escape(words)}" src="data:image/svg+xml;base64,{picture}" style="width:100%;border-radius:4px">'
        f"<figcaption>{number}: {lines}</figcaption></metric>"
    )
