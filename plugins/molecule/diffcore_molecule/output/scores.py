"""Values of single molecules: identity, validity, properties, alerts, strain, novelty."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rdkit import Chem
from rdkit.Chem import inchi, rdMolDescriptors

from diffcore.errors import UserError, did_you_mean
from diffcore.plugins.data import Data
from diffcore.plugins.output import Value
from diffcore_molecule.chemistry import properties
from diffcore_molecule.chemistry.alerts import CATALOGS, has_alert, synthetic_accessibility
from diffcore_molecule.chemistry.dft import DFT
from diffcore_molecule.chemistry.molecules import Molecule, identity, remove_hydrogens
from diffcore_molecule.chemistry.strain import strain_energy
from diffcore_molecule.codec import MoleculeCodec
from diffcore_molecule.data.examples import molecule_at
from diffcore_molecule.evaluation import plausibility
from diffcore_molecule.evaluation.contacts import nearest
from diffcore_molecule.evaluation.distance import similarities
from diffcore_molecule.evaluation.metrics import KnownStereo, validated
from diffcore_molecule.output.records import DRAWN, STANDARD, Record, record


@dataclass(frozen=True)
class _Sample:
    """A molecule with its record, and the sanitised molecule if it is valid, as it is and with implicit hydrogens."""

    record: Record
    mol: Chem.Mol | None
    plain: Chem.Mol | None


_OF_ALL: Mapping[str, tuple[str, Callable[[_Sample], Value]]] = {
    "valid": ("RDKit sanitises it, and it is one piece", lambda sample: sample.record.valid),
    "smiles": ("canonical, with stereochemistry from the positions", lambda sample: sample.record.smiles or None),
    "reason": ("why it is not valid", lambda sample: sample.record.fault or None),
    "geometry": ("why its positions cannot be right", lambda sample: sample.record.geometry or None),
}
"""Values that molecules have that are not valid either."""
_OF_VALID: Mapping[str, tuple[str, Callable[[Chem.Mol, Chem.Mol], Value]]] = {
    "inchikey": ("hashed InChI, equal for equal molecules", lambda mol, plain: inchi.MolToInchiKey(plain)),
    "formula": ("sum formula", lambda mol, plain: rdMolDescriptors.CalcMolFormula(plain)),
    "sa": ("synthetic accessibility, 1 easy to 10", lambda mol, plain: synthetic_accessibility(plain)),
    "strain": ("energy that MMFF94 gains by relaxing it, kcal/mol", lambda mol, plain: strain_energy(mol)),
    "contact": ("smallest distance of atoms more than two bonds apart, A", lambda mol, plain: nearest(mol)),
}


def _alert(catalog: str) -> Callable[[Chem.Mol, Chem.Mol], Value]:
    return lambda mol, plain: has_alert(plain, catalog)


_ALERTS: Mapping[str, tuple[str, Callable[[Chem.Mol, Chem.Mol], Value]]] = {
    name: (meaning, _alert(name)) for name, meaning in CATALOGS.items()
}
_NOVEL = {
    "novel": "not among the training molecules, ignoring stereochemistry",
    "novel_stereo": "not among the training molecules with this stereochemistry",
}
_POSEBUSTERS = {"posebusters": "passes all checks of PoseBusters, where it is installed; slow"}


class MoleculeScorer:
    """Values of molecules by name: those listed here, and every property that can be measured.

    `functions` are properties of the user; they take a sanitised RDKit molecule with implicit hydrogens.
    """

    identity = "inchikey"

    def __init__(
        self, codec: MoleculeCodec, data: Callable[[], Data | None], functions: Mapping[str, Callable[..., Any]]
    ) -> None:
        self._hydrogens, self._data = codec.facts.hydrogens, data
        for name, function in functions.items():
            try:
                properties.register(name, function)
            except ValueError as error:
                raise UserError(f"`properties`: {error}; write NAME=module:function with another name") from None
        asked = [item.name for item in codec.facts.measured if not item.is_dft and _is_known(item.name)]
        self._drawn = {f"{DRAWN}{item.name}": item.name for item in codec.facts.joint}
        measured = {name: _meaning(name) for name in dict.fromkeys((*STANDARD, *asked, *functions))}
        fixed = {name: meaning for name, (meaning, _) in _OF_VALID.items()}
        of_all = {name: meaning for name, (meaning, _) in _OF_ALL.items()}
        self.columns = {**of_all, "inchikey": fixed["inchikey"], **measured, "sa": fixed["sa"], **_alerts("PAINS")}
        self.columns |= {name: f"{own} as it was drawn together with the molecule" for name, own in self._drawn.items()}
        self.columns |= {"strain": fixed["strain"], "contact": fixed["contact"], "novel": _NOVEL["novel"]}
        rest = {**fixed, **_alerts(*CATALOGS), **_NOVEL, **_POSEBUSTERS}
        self.more = {name: meaning for name, meaning in rest.items() if name not in self.columns}

    def require(self, names: Sequence[str]) -> None:
        """Raise `UserError` for a name that is neither listed nor a property, or whose package is not installed."""
        for name in names:
            if name in _POSEBUSTERS and not plausibility.available():
                raise UserError("the value 'posebusters' needs the package posebusters (pip install posebusters)")
            if name in self.columns or name in self.more:
                continue
            if name in DFT and not _is_known(name):
                raise UserError(f"the property {name!r} comes from DFT, and samples cannot be measured one by one")
            if not _is_known(name):
                known = ", ".join([*self.columns, *self.more])
                hint = did_you_mean(name, [*self.columns, *self.more])
                raise UserError(f"unknown value {name!r}{hint}; there are: {known}; and {properties.known_names()}")

    def score(self, samples: Sequence[Molecule], names: Sequence[str]) -> dict[str, list[Value]]:
        """The values of these names; None for what samples that are not valid do not have."""
        made = [self._sample(molecule) for molecule in samples]
        return {name: self._values(name, made) for name in names}

    def similarity(self, samples: Sequence[Molecule], others: Sequence[Molecule]) -> list[list[float]]:
        """Tanimoto similarity of Morgan fingerprints (radius 2, 2,048 bits); nan for samples that are not valid."""
        rows, columns = ([self._sample(each).plain for each in some] for some in (samples, others))
        return similarities(rows, columns)

    def _sample(self, molecule: Molecule) -> _Sample:
        found = record(molecule, self._hydrogens, standard=())
        mol = validated(molecule, self._hydrogens) if found.valid else None
        return _Sample(found, mol, None if mol is None else remove_hydrogens(mol))

    def _values(self, name: str, samples: Sequence[_Sample]) -> list[Value]:
        if name in _OF_ALL:
            return [_OF_ALL[name][1](sample) for sample in samples]
        if name in self._drawn:
            return [sample.record.molecule.properties.get(self._drawn[name]) for sample in samples]
        if name in _NOVEL:
            return [None if sample.mol is None else self._is_novel(name, sample.mol) for sample in samples]
        if name in _POSEBUSTERS:
            passed = iter(plausibility.plausible_each([sample.mol for sample in samples if sample.mol is not None]))
            return [None if sample.mol is None else next(passed) for sample in samples]
        if name in _OF_VALID or name in _ALERTS:
            function = {**_OF_VALID, **_ALERTS}[name][1]
            return [
                None if sample.mol is None or sample.plain is None else _finite(function(sample.mol, sample.plain))
                for sample in samples
            ]
        return [
            None if sample.mol is None else _finite(properties.measure(sample.mol, [name])[0]) for sample in samples
        ]

    def _is_novel(self, name: str, mol: Chem.Mol) -> Value:
        known = self._known
        if known is None:
            return None
        return identity(mol) not in known[0] if name == "novel" else mol not in known[1]

    @cached_property
    def _known(self) -> tuple[frozenset[int], KnownStereo] | None:
        """The identities of the training molecules, without and with stereochemistry; None if there are no data."""
        data = self._data()
        if data is None:
            return None
        examples, hydrogens = data.examples, self._hydrogens
        stereo = KnownStereo(examples["identity"].numpy(), lambda row: validated(molecule_at(examples, row), hydrogens))
        return frozenset(examples["identity"].tolist()), stereo


def _alerts(*names: str) -> dict[str, str]:
    return {name: f"has {CATALOGS[name]}" for name in names}


def _is_known(name: str) -> bool:
    try:
        properties.find(name)
    except UserError:
        return False
    return True


def _meaning(name: str) -> str:
    found = properties.find(name)
    return f"{found.summary}{f', {found.unit}' if found.unit else ''}"


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
