"""Properties of molecules by name: those of RDKit, those that users register, and those of the QM9 file."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors, Lipinski, rdMolDescriptors

from diffcore.errors import UserError, did_you_mean
from diffcore_molecule.chemistry.molecules import remove_hydrogens

GROUP = "diffcore_molecule.properties"
"""The group of entry points that add properties: the name of a property, and its function or a `Property`."""


@dataclass(frozen=True)
class Property:
    """A number computed from a molecule. The function receives a sanitised molecule with implicit hydrogens."""

    name: str
    function: Callable[[Chem.Mol], float]
    unit: str = ""
    summary: str = ""


@dataclass(frozen=True)
class Column:
    """A property that is read from the QM9 file: `value in the file * factor` is in `unit`."""

    index: int
    """The position of the value among the numbers after `gdb i`."""
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
"""Properties that only the data set qm9 has, computed at B3LYP/6-31G(2df,p): dipole moment, isotropic polarisability,
energies of the frontier orbitals and their gap, heat capacity at 298.15 K."""

BUILT_IN = {
    item.name: item
    for item in (
        Property("logp", Crippen.MolLogP, "", "octanol-water partition coefficient, Crippen's estimate"),
        Property("tpsa", rdMolDescriptors.CalcTPSA, "A^2", "topological polar surface area"),
        Property("qed", QED.qed, "", "quantitative estimate of drug-likeness, 0 to 1"),
        Property("weight", Descriptors.MolWt, "g/mol", "average molecular weight"),
        Property("rings", rdMolDescriptors.CalcNumRings, "", "rings in the smallest set of smallest rings"),
        Property("aromatic_rings", rdMolDescriptors.CalcNumAromaticRings, "", "aromatic rings"),
        Property("rotatable_bonds", rdMolDescriptors.CalcNumRotatableBonds, "", "rotatable bonds"),
        Property("hbd", Lipinski.NumHDonors, "", "hydrogen bond donors"),
        Property("hba", Lipinski.NumHAcceptors, "", "hydrogen bond acceptors"),
        Property("heavy_atoms", Lipinski.HeavyAtomCount, "", "atoms other than hydrogen"),
        Property("heteroatoms", rdMolDescriptors.CalcNumHeteroatoms, "", "atoms other than carbon and hydrogen"),
        Property("fsp3", rdMolDescriptors.CalcFractionCSP3, "", "fraction of the carbon atoms that are sp3"),
        Property("stereocentres", rdMolDescriptors.CalcNumAtomStereoCenters, "", "atomic stereocentres"),
        Property("molar_refractivity", Crippen.MolMR, "cm^3/mol", "Crippen's estimate"),
    )
}

_registered: dict[str, Property] = {}


def register(name: str, function: Callable[[Chem.Mol], float], unit: str = "", summary: str = "") -> None:
    """Register a function of a molecule as a property, so that options of this process can name it.

    A package registers its properties permanently with entry points of the group `diffcore_molecule.properties`.
    Raises `ValueError` if the name is taken.
    """
    if name in BUILT_IN or name in DFT or name in _descriptors() or name in _installed():
        raise ValueError(f"the property {name!r} exists already")
    _registered[name] = Property(name, function, unit, summary)


def find(name: str) -> Property:
    """The property of this name: built in, registered, installed, or a descriptor of RDKit.

    Raises `UserError` if there is none, or if it is a property that only the data set qm9 has.
    """
    for known in (BUILT_IN, _registered):
        if name in known:
            return known[name]
    if name in _installed():
        return _loaded(name)
    if name in _descriptors():
        return Property(name, _descriptors()[name])
    if name in DFT:
        raise UserError(f"the property {name!r} comes from DFT: only the data set qm9 has it; {known_names()}")
    suggestion = did_you_mean(name, [*DFT, *_descriptors(), *_installed(), *_registered, *BUILT_IN])
    raise UserError(f"unknown property {name!r}{suggestion}; {known_names()}")


def known_names() -> str:
    """The available properties, in one line."""
    names = ", ".join([*BUILT_IN, *_registered, *_installed()])
    return f"properties are {names}, and RDKit's descriptors by their own names, such as BertzCT"


def unit_of(name: str) -> str:
    """The unit of a property, including those of the QM9 file; empty if it has none."""
    return DFT[name].unit if name in DFT else find(name).unit


def is_stable(name: str) -> bool:
    """Whether the name means the same function in every process with this version of RDKit, so values can be cached."""
    return name in BUILT_IN or (name not in _registered and name not in _installed())


def measure(molecule: Chem.Mol, names: Sequence[str]) -> list[float]:
    """The properties of a sanitised molecule, in the order of `names`; NaN if a function fails or is not finite.

    Hydrogens are made implicit first, so that values do not depend on how they are represented.
    """
    functions = [find(name).function for name in names]
    plain = remove_hydrogens(molecule)
    return [_value(function, plain) for function in functions]


def _value(function: Callable[[Chem.Mol], float], molecule: Chem.Mol) -> float:
    try:
        value = float(function(molecule))
    except Exception:  # the function of a user may raise any exception
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
