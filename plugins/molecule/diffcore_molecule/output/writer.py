"""Writes molecules as SDF, SMILES, pictures, and HTML for the report."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy
from rdkit import Chem

from diffcore.evaluation import viewer
from diffcore.plugins.output import Batches, Captions
from diffcore.plugins.text import NAME as PROMPT
from diffcore_molecule.chemistry.hydrogens import with_hydrogens
from diffcore_molecule.chemistry.molecules import Molecule, sanitised
from diffcore_molecule.codec import MoleculeCodec
from diffcore_molecule.data.store import without_function
from diffcore_molecule.described.metrics import prompt_summary
from diffcore_molecule.options import WritingOptions
from diffcore_molecule.output.depiction import drawing, sheet
from diffcore_molecule.output.records import DRAWN, Record, records
from diffcore_molecule.output.scenes import axes, scene


class MoleculeWriter:
    """Writes samples, which are lists of `Molecule`."""

    endings = (".png", ".sdf", ".smi")
    streams = (".sdf", ".smi")

    def __init__(self, codec: MoleculeCodec, options: WritingOptions | None = None) -> None:
        self._hydrogens = codec.facts.hydrogens
        self._add_hydrogens = options is not None and options.hydrogens and not codec.facts.hydrogens
        self._described = codec.facts.described
        self._dft = frozenset(item.name for item in codec.facts.measured if item.is_dft)
        names = [item.name for item in codec.facts.joint if not item.is_dft]
        self._computed = [name for name in names if name not in without_function(names)]

    def each(
        self, samples: Sequence[Molecule], folder: Path, names: Sequence[str], captions: Captions = ()
    ) -> list[Path]:
        """Write each sample as an SDF file of one record."""
        paths = [folder / f"{name}.sdf" for name in names]
        for path, name, (record, caption) in zip(paths, names, self._captioned(samples, captions), strict=True):
            path.write_text(sdf(record, name, caption, self._add_hydrogens), encoding="utf-8")
        return paths

    def together(self, samples: Sequence[Molecule], path: Path, columns: int, captions: Captions = ()) -> None:
        """Write all samples into one file.

        `.sdf` has a record for each sample, named by its number from 1; samples that are not valid have `VALID` 0 and a
        `REASON`. `.smi` has a line for each valid sample, the canonical SMILES and the number; other samples are left
        out because readers would stop at them. `.png` is a sheet of depictions.
        """
        if path.suffix.lower() in self.streams:
            self.stream([(samples, captions)], path)
            return
        captioned = self._captioned(samples, captions)
        legends = [legend(record, caption) for record, caption in captioned]
        sheet([record for record, _ in captioned], legends, columns).save(path)

    def stream(self, batches: Batches, path: Path) -> None:
        """Write any number of samples into an `.sdf` or `.smi` file, batch by batch, as `together` does."""
        each = (item for samples, captions in batches for item in self._captioned(samples, captions))
        sdf_file = path.suffix.lower() == ".sdf"
        with path.open("w", encoding="utf-8") as file:
            for number, (record, caption) in enumerate(each, 1):
                if sdf_file:
                    file.write(sdf(record, str(number), caption, self._add_hydrogens))
                elif record.valid:
                    file.write(f"{record.smiles} {number}\n")

    def html(
        self, samples: Sequence[Molecule], columns: int, captions: Captions = (), trajectories: bool = False
    ) -> str:
        """Depictions, and below them 3D scenes of the same samples with the same numbers.

        Each scene is rotated along the principal axes of its sample. With `trajectories` all scenes of a row have the
        rotation of the last one, so that the movement of the atoms is visible.
        """
        captioned = self._captioned(samples, captions)
        numbers = [f"{k}" if len(captioned) > 1 else "" for k in range(1, len(captioned) + 1)]
        tiles = "".join(
            _tile(number, record, legend(record, caption))
            for number, (record, caption) in zip(numbers, captioned, strict=True)
        )
        columns = max(1, min(columns, len(captioned)))
        ends = [captioned[k - k % columns + columns - 1 if trajectories else k][0] for k in range(len(captioned))]
        scenes = [
            _scene(number, record, end) for number, (record, _), end in zip(numbers, captioned, ends, strict=True)
        ]
        style = (
            f"display:grid;grid-template-columns:repeat({columns},minmax(5rem,1fr));gap:.5rem;"
            f"overflow-x:auto;margin-bottom:1rem"
        )
        return f'<div style="{style}">{tiles}</div>{viewer.html(scenes, columns)}'

    def summary(self, samples: Sequence[Molecule], captions: Captions = ()) -> list[str]:
        """The number of valid samples, and for each condition the requested values and those of the valid samples.

        If there are valid samples with positions that cannot be those of their molecule, their number is added. Of
        sentences that RDKit's answers make, a line says how often samples are what they ask for.
        """
        captioned = self._captioned(samples, captions)
        valid = [record for record, _ in captioned if record.valid]
        wrong = [record.geometry for record in valid if record.geometry]
        names = dict.fromkeys(name for caption in captions for name in caption)
        lines = [_comparison(name, captioned) for name in names]
        if self._described and PROMPT in names:
            mols = [sanitised(record.mol) if record.valid else None for record, _ in captioned]
            lines += prompt_summary(mols, [caption.get(PROMPT, "") for caption in captions])
        note = f", but {len(wrong)} of them have impossible positions, such as: {wrong[0]}" if wrong else ""
        return [f"{len(valid)} of {len(captioned)} samples are valid{note}", *(line for line in lines if line)]

    def _captioned(self, samples: Sequence[Molecule], captions: Captions) -> list[tuple[Record, Mapping[str, str]]]:
        return list(
            zip(
                records(samples, self._hydrogens, captions, self._dft, self._computed),
                captions or [{}] * len(samples),
                strict=True,
            )
        )


def _comparison(name: str, captioned: Sequence[tuple[Record, Mapping[str, str]]]) -> str:
    """A line that compares requested and obtained values of a property; empty if no valid sample has a value."""
    pairs = [
        (float(caption[name]), record.properties[name])
        for record, caption in captioned
        if {name} <= caption.keys() & record.properties.keys()
    ]
    if not pairs:
        return ""
    target, obtained = numpy.array(pairs).T
    targets = f"{target.min():.4g}" if target.min() == target.max() else f"{target.min():.4g} to {target.max():.4g}"
    return (
        f"{name}: asked {targets}, obtained {obtained.mean():.4g} +- {obtained.std():.3g} "
        f"(mean and standard deviation of {len(pairs)} valid samples of {len(captioned)}), "
        f"mean absolute error {numpy.abs(target - obtained).mean():.3g}"
    )


def sdf(record: Record, title: str, caption: Mapping[str, str], add_hydrogens: bool = False) -> str:
    """A record of an SDF file: the generated graph with Kekule bonds, the positions, and data fields.

    The graph is a V2000 molfile, or V3000 if V2000 cannot hold the coordinates (from 10,000 Angstrom on) or the number
    of atoms (above 999). The fields are VALID (1 or 0), REASON if it is 0, GEOMETRY if the positions cannot be those of
    the molecule, SMILES, the properties, `drawn_NAME` for each that was drawn together with the molecule, and
    `asked_NAME` for each condition. Bonds that are unsafe for readers are not
    in the graph but in the field BONDS, as lines of two atoms (from 1) and an order. In names of properties, characters
    that SDF does not allow become `_`, and a name that is taken gets a `_`. With `add_hydrogens`, the implicit
    hydrogens of valid samples are atoms at the end, see `diffcore_molecule.chemistry.hydrogens`.
    """
    fields = {"VALID": str(int(record.valid)), "REASON": _line(record.fault), "GEOMETRY": record.geometry}
    fields["SMILES"] = record.smiles
    fields["BONDS"] = _bond_lines(record.molecule.bonds) if record.unsafe_bonds else ""
    named = {property: f"{value:.6g}" for property, value in record.properties.items()}
    named |= {f"{DRAWN}{property}": f"{value:.6g}" for property, value in record.molecule.properties.items()}
    for name, value in [
        *named.items(),
        *((f"asked_{condition}", _line(value)) for condition, value in caption.items()),
    ]:
        field = re.sub(r"[^\x20-;=?-\U0010ffff]", "_", name) or "unnamed"
        while field in fields:
            field += "_"
        fields[field] = value
    data = "".join(f">  <{field}>\n{value}\n\n" for field, value in fields.items() if value)
    mol = _with_hydrogens(record) if add_hydrogens and record.valid else record.mol
    _, _, block = Chem.MolToMolBlock(mol, kekulize=False).partition("\n")
    return f"{_line(title)}\n{block}{data}$$$$\n"


def _with_hydrogens(record: Record) -> Chem.Mol:
    """The graph of a valid sample with Kekule bonds, and with its hydrogens as atoms."""
    clean = sanitised(record.mol)
    assert clean is not None
    whole = with_hydrogens(clean)
    Chem.Kekulize(whole, clearAromaticFlags=True)
    return whole


def _bond_lines(bonds: numpy.ndarray) -> str:
    ends = zip(*numpy.triu(bonds, 1).nonzero(), strict=True)
    return "\n".join(f"{i + 1} {j + 1} {bonds[i, j]}" for i, j in ends)


def legend(record: Record, caption: Mapping[str, str]) -> str:
    """Lines of text: the SMILES, or the reason why the sample is not valid, then requested and obtained values.

    Values that were drawn together with the molecule are beside those that it has, where these can be computed.
    """
    lines = [record.smiles if record.valid else "not valid", "" if record.valid else record.fault]
    for condition, target in caption.items():
        value = record.properties.get(condition)
        lines.append(f"{condition}: asked {target}" + ("" if value is None else f", got {value:.3g}"))
    for name, drawn in record.molecule.properties.items():
        value = record.properties.get(name)
        lines.append(f"{name}: drawn {drawn:.3g}" + ("" if value is None else f", is {value:.3g}"))
    return "\n".join(line for line in lines if line)


def _scene(number: str, record: Record, oriented_as: Record) -> viewer.Scene:
    """The 3D scene of a sample, rotated along the principal axes of another one; unsafe bonds are not drawn."""
    caption = ", ".join(filter(None, [number, "" if record.valid else "not valid"]))
    bonds = numpy.zeros_like(record.molecule.bonds) if record.unsafe_bonds else record.molecule.bonds
    return scene(replace(record.molecule, bonds=bonds), caption, axes(oriented_as.molecule.positions))


def _line(text: str) -> str:
    return " ".join(text.split())


def _tile(number: str, record: Record, caption: str) -> str:
    picture = base64.b64encode(drawing(record, 200, 160, vector=True)).decode()
    lines = escape(caption).replace("\n", "<br>")
    return (
        f'<figure style="margin:0;min-width:0;font-size:.7rem;line-height:1.3;overflow-wrap:anywhere">'
        f'<img alt="{escape(caption)}" src="data:image/svg+xml;base64,{picture}" style="width:100%;border-radius:4px">'
        f"<figcaption>{number}{': ' if number else ''}{lines}</figcaption></figure>"
    )
