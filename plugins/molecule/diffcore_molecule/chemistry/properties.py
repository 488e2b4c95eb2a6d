"""Properties of molecules by name: those of RDKit, those that users register, and those of the QM9 file."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors, Lipinski, rdMolDescriptors

from diffcore.errors import UserError, did_you_mean
from diffcore_molecule.chemistry.dft import DFT
from diffcore_molecule.chemistry.molecules import remove_hydrogens

logger = logging.getLogger(__name__)

GROUP = "diffcore_molecule.properties"
"""The group of entry points that add properties: the name of a property, and its function or a `Property`."""


@dataclass(frozen=True)
class Property:
    """A number computed from a molecule. The function receives a sanitised molecule with implicit hydrogens."""

    name: str
    function: Callable[[Chem.Mol], float]
    unit: str = ""
    summary: str = ""


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

    A package registers its properties permanently with entry points of the group `diffcore_molecule.properties`. A name
    of QM9's DFT properties is allowed: the data set qm9 then uses the values of its file. Raises `ValueError` if the
    name is taken.
    """
    if name in BUILT_IN or name in _descriptors() or name in _installed():
        raise ValueError(f"the property {name!r} exists already")
    _registered[name] = Property(name, function, unit, summary)


def find(name: str) -> Property:
    """The property of this name: built in, registered, a descriptor of RDKit, or installed.

    Raises `UserError` if there is none, or if it is a property that only the data set qm9 has.
    """
    for known in (BUILT_IN, _registered):
        if name in known:
            return known[name]
    if name in _descriptors():
        return Property(name, _descriptors()[name])
    if name in _installed():
        return _loaded(name)
    if name in DFT:
        raise UserError(f"the property {name!r} comes from DFT: only the data set qm9 has it; {known_names()}")
    suggestion = did_you_mean(name, [*DFT, *_descriptors(), *_installed(), *_registered, *BUILT_IN])
    raise UserError(f"unknown property {name!r}{suggestion}; {known_names()}")


def known_names() -> str:
    """The available properties, in one line."""
    names = ", ".join([*BUILT_IN, *_registered, *_installed()])
    return f"properties are {names}, and RDKit's descriptors by their own names, such as BertzCT"


def clash(name: str, of_file: bool = False) -> str:
    """What is not used because of its name, in a sentence; empty if the name has one meaning.

    With `of_file` the values of the property are those of the QM9 file.
    """
    functions = [
        f"{entry.value} of {entry.dist.name if entry.dist else 'an unknown package'}"
        for entry in _installed().get(name, ())
    ]
    if of_file:
        functions += [f"the registered function {_registered[name].function!r}"] if name in _registered else []
        used = "the values of the QM9 file"
    elif name in BUILT_IN:
        used = "diffcore's own property"
    elif name in _descriptors():
        used = "RDKit's descriptor"
    else:
        used, functions = (functions[0], functions[1:]) if functions else ("", [])
    if not functions:
        return ""
    return (
        f"the property {name!r} has two meanings: {used} is used, and {', '.join(functions)} is not; rename the latter"
    )


def is_stable(name: str) -> bool:
    """Whether the name means the same function in every process with this version of RDKit, so values can be cached."""
    return name in BUILT_IN or (name not in _registered and name in _descriptors())


def measure(molecule: Chem.Mol, names: Sequence[str]) -> list[float]:
    """The properties of a sanitised molecule, in the order of `names`; NaN if a function fails or is not finite.

    Hydrogens are made implicit first, so that values do not depend on how they are represented.
    """
    functions = [find(name).function for name in names]
    plain = remove_hydrogens(molecule)
    return [_value(name, function, plain) for name, function in zip(names, functions, strict=True)]


def _value(name: str, function: Callable[[Chem.Mol], float], molecule: Chem.Mol) -> float:
    try:
        value = float(function(molecule))
    except Exception as error:  # the function of a user may raise any exception
        _tell_failure(name, f"{type(error).__name__}: {error}")
        return math.nan
    return value if math.isfinite(value) else math.nan


@cache
def _tell_failure(name: str, why: str) -> None:
    """Log a failure of a property once, as it may fail for every molecule."""
    logger.warning(f"the property {name!r} failed for a molecule, which has no value of it then: {why}")


@cache
def _descriptors() -> dict[str, Callable[[Chem.Mol], float]]:
    return dict(Descriptors.descList)


@cache
def _installed() -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of each name, in the order of their values."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.value):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


@cache
def _loaded(name: str) -> Property:
    entry = _installed()[name][0]
    try:
        found = entry.load()
    except Exception as error:
        raise UserError(f"the property {name!r} of {entry.value} cannot be loaded: {error!r}") from None
    return found if isinstance(found, Property) else Property(name, found)
