"""Properties of molecules by name: RDKit's, those that users register, and those that QM9's file gives."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points

from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors, Lipinski, rdMolDescriptors

from diffcore.errors import UserError
from diffcore_molecule.chemistry.molecules import bare

GROUP = "diffcore_molecule.properties"
"""Entry points of this group are properties: the name, and a function of a molecule (or a `Property`)."""


@dataclass(frozen=True)
class Property:
    """A number that every molecule has. The function takes a sanitised molecule whose hydrogens are implied."""

    name: str
    function: Callable[[Chem.Mol], float]
    unit: str = ""
    summary: str = ""


@dataclass(frozen=True)
class Column:
    """A property that is read from QM9's file: `file value * factor` is in `unit`."""

    index: int
    """Which of the numbers after `gdb i`."""
    unit: str
    factor: float = 1.0


HARTREE = 27.211386245988
"""In eV, CODATA 2018."""

DFT = {
    "mu": Column(3, "D"),
    "alpha": Column(4, "Bohr^3"),
    "homo": Column(5, "eV", HARTREE),
    "lumo": Column(6, "eV", HARTREE),
    "gap": Column(7, "eV", HARTREE),
    "cv": Column(14, "cal/(mol K)"),
}
"""What the data set qm9 knows besides, at B3LYP/6-31G(2df,p): dipole moment, isotropic polarisability, energies of the
frontier orbitals and their gap, heat capacity at 298.15 K."""

FRIENDLY = {
    item.name: item
    for item in (
        Property("logp", Crippen.MolLogP, "", "octanol-water partition coefficient, Crippen's estimate"),
        Property("tpsa", rdMolDescriptors.CalcTPSA, "A^2", "topological polar surface area"),
        Property("qed", QED.qed, "", "quantitative estimate of drug-likeness, 0 to 1"),
        Property("weight", Descriptors.MolWt, "g/mol", "average molecular weight"),
        Property("rings", rdMolDescriptors.CalcNumRings, "", "rings of the smallest set"),
        Property("aromatic_rings", rdMolDescriptors.CalcNumAromaticRings, "", "aromatic rings"),
        Property("rotatable_bonds", rdMolDescriptors.CalcNumRotatableBonds, "", "rotatable bonds"),
        Property("hbd", Lipinski.NumHDonors, "", "donors of hydrogen bonds"),
        Property("hba", Lipinski.NumHAcceptors, "", "acceptors of hydrogen bonds"),
        Property("heavy_atoms", Lipinski.HeavyAtomCount, "", "atoms that are not hydrogen"),
        Property("heteroatoms", rdMolDescriptors.CalcNumHeteroatoms, "", "atoms that are neither carbon nor hydrogen"),
        Property("fsp3", rdMolDescriptors.CalcFractionCSP3, "", "share of carbons that are sp3"),
        Property("stereocentres", rdMolDescriptors.CalcNumAtomStereoCenters, "", "stereocentres of atoms"),
        Property("molar_refractivity", Crippen.MolMR, "cm^3/mol", "Crippen's estimate"),
    )
}

_registered: dict[str, Property] = {}


def register(name: str, function: Callable[[Chem.Mol], float], unit: str = "", summary: str = "") -> None:
    """Make a function of a molecule a property of this process, so that options can name it.

    A package does it for good with an entry point of the group `diffcore_molecule.properties`.
    Raises `ValueError` where the name is taken.
    """
    if name in FRIENDLY or name in DFT or name in _descriptors() or name in _installed():
        raise ValueError(f"there is a property {name!r} already")
    _registered[name] = Property(name, function, unit, summary)


def find(name: str) -> Property:
    """The property of this name: a friendly one, a registered one, an installed one, or RDKit's descriptor."""
    for known in (FRIENDLY, _registered):
        if name in known:
            return known[name]
    if name in _installed():
        return _loaded(name)
    if name in _descriptors():
        return Property(name, _descriptors()[name])
    if name in DFT:
        raise UserError(f"the property {name!r} is DFT's: only the data set qm9 knows it; {known_names()}")
    near = get_close_matches(name, [*FRIENDLY, *_registered, *_installed(), *_descriptors(), *DFT], 1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    raise UserError(f"unknown property {name!r}{meant}; {known_names()}")


def known_names() -> str:
    """What there is, in a line."""
    names = ", ".join([*FRIENDLY, *_registered, *_installed()])
    return f"there are {names}; RDKit's descriptors work by their own names, such as TPSA or BertzCT"


def unit_of(name: str) -> str:
    """The unit of a property, of those from QM9's file too; empty where it has none."""
    return DFT[name].unit if name in DFT else find(name).unit


def is_stable(name: str) -> bool:
    """Whether the name means the same function in every process with this RDKit, so that values can be kept."""
    return name in FRIENDLY or (name not in _registered and name not in _installed())


def measure(molecule: Chem.Mol, names: Sequence[str]) -> list[float]:
    """The properties of a sanitised molecule, in the order of the names; NaN where a function fails or is not finite.

    Hydrogens are implied first, so that values do not depend on how they are written.
    """
    functions = [find(name).function for name in names]
    plain = bare(molecule)
    return [_value(function, plain) for function in functions]


def _value(function: Callable[[Chem.Mol], float], molecule: Chem.Mol) -> float:
    try:
        value = float(function(molecule))
    except Exception:  # a user's function may raise anything
        return math.nan
    return value if math.isfinite(value) else math.nan


@cache
def _descriptors() -> dict[str, Callable[[Chem.Mol], float]]:
    return dict(Descriptors.descList)


@cache
def _installed() -> dict[str, object]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


@cache
def _loaded(name: str) -> Property:
    entry = _installed()[name]
    try:
        found = entry.load()  # type: ignore[attr-defined]
    except Exception as error:
        raise UserError(f"the property {name!r} of {entry.value} cannot be loaded: {error}") from None  # type: ignore[attr-defined]
    return found if isinstance(found, Property) else Property(name, found)
