"""Figures of molecules: what share of them is chemistry and new, and how far they are from real ones.

Every metric says of what it is a share or between what it is a distance, and has beside it what real molecules reach.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy
import torch
from rdkit import Chem
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.plugins.data import Codec, Data
from diffcore.plugins.output import Metric
from diffcore.states.noise import generator_for
from diffcore_molecule.chemistry import properties
from diffcore_molecule.chemistry.bond_inference import relooked
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.data.examples import molecule_at
from diffcore_molecule.evaluation import metrics as measures
from diffcore_molecule.evaluation import plausibility
from diffcore_molecule.evaluation.metrics import Comparison, Measured
from diffcore_molecule.evaluation.property_regressor import trained_oracle
from diffcore_molecule.options import MoleculeFacts

_REFERENCE = 2000
"""Held-out molecules are compared with where there are at least so many, else all real ones."""
_COMPARED = 5000
"""So many real molecules at most, drawn with a fixed seed."""
_BESIDE = 1000
"""So many of these show what real molecules reach in shares."""
_CHECKED = 100
"""So many samples at most go through the slow checks of PoseBusters."""

GEOMETRY: tuple[tuple[str, Callable[[Sequence[Molecule]], Measured], Comparison, str], ...] = (
    ("bond_lengths", measures.bond_lengths, measures.distance, "mean 1-Wasserstein distance in A, by kind of bond"),
    (
        "bond_angles",
        measures.bond_angles,
        measures.distance,
        "mean 1-Wasserstein distance in degrees, by central element",
    ),
    ("bond_kinds", measures.bond_lengths, measures.kinds_apart, "total variation of the shares of kinds of bonds"),
    ("elements", measures.elements, measures.kinds_apart, "total variation of the shares of elements"),
    ("atoms", measures.sizes, measures.distance, "1-Wasserstein distance of the number of atoms"),
    ("rings", measures.rings, measures.distance, "1-Wasserstein distance of the number of independent rings"),
)
"""What is measured of molecules, how two sets of it are compared, and what that is."""


class MoleculeEvaluator:
    """Figures against real molecules, and what samples have of the properties that they can be asked for.

    `data.examples` and `data.held_out` have the fields numbers, charges `[n, N]`, bonds `[n, N, N]`, positions
    `[n, N, 3]`, properties `[n, P]` in the order of `facts.properties`, and identity `[n]`; number 0 is padding.
    """

    def __init__(self, facts: MoleculeFacts, data: Data, cache: Path) -> None:
        self._hydrogens = facts.hydrogens
        self._names = tuple(known.name for known in facts.properties)
        self._known = frozenset(data.examples["identity"].tolist())
        held_out = data.held_out
        if held_out is not None and len(held_out) >= _REFERENCE:
            parts, words = [held_out], "held-out real molecules"
        else:
            parts = [data.examples] if held_out is None else [data.examples, held_out]
            words = "real molecules out of all there are"
        order = (
            torch.randperm(sum(map(len, parts)), generator=generator_for("real molecules"))[:_COMPARED].sort().values
        )
        chosen = [part[order[(order >= start) & (order < start + len(part))] - start] for part, start in _starts(parts)]
        self._reference = [molecule_at(part, row) for part in chosen for row in range(len(part))]
        self._properties = torch.cat([part["properties"] for part in chosen]).double().numpy()
        some = torch.randperm(len(self._reference), generator=generator_for("some real molecules"))[:_BESIDE]
        self._some = [self._reference[row] for row in some.tolist()]
        self._words = f"{len(self._reference)} {words}"
        self._dft = tuple(name for name in self._names if name in properties.DFT)
        self._oracle = None
        if self._dft and held_out is not None:
            columns = [self._names.index(name) for name in self._dft]
            learned = held_out.select("numbers", "charges", "bonds", "positions")
            learned["properties"] = held_out["properties"][:, columns]
            self._oracle = trained_oracle(learned, self._dft, cache)

    def __call__(self, samples: Sequence[Molecule], conditions: Conditions) -> list[Metric]:
        """Figures of the samples, whatever they were asked to be; those of nothing (no valid sample) are left out."""
        samples = list(samples)
        mols = [measures.validated(sample, self._hydrogens) for sample in samples]
        valid = [sample for sample, mol in zip(samples, mols, strict=True) if mol is not None]
        metrics = [
            *self._chemistry(samples, mols),
            *(self._lookup(samples) if self._hydrogens else []),
            *self._plausibility(mols),
            *self._distances(valid),
            *self._property_distances(self._measured(samples, mols)),
        ]
        return [metric for metric in metrics if not math.isnan(metric.value)]

    def measure(self, samples: Sequence[Molecule]) -> dict[str, Tensor]:
        """Each property of every sample, `[n]` float64; NaN for samples that are not valid (sanitised, one piece).

        By RDKit, or where the property is one of DFT by a regressor; NaN too where there are no held-out molecules
        for the regressor to learn from.
        """
        return self._measured(samples, [measures.validated(sample, self._hydrogens) for sample in samples])

    def _measured(self, samples: Sequence[Molecule], mols: Sequence[Chem.Mol | None]) -> dict[str, Tensor]:
        values = torch.full((len(samples), len(self._names)), math.nan, dtype=torch.float64)
        rows = [row for row, mol in enumerate(mols) if mol is not None]
        ordinary = [name for name in self._names if name not in self._dft]
        if rows and ordinary:
            columns = torch.tensor([self._names.index(name) for name in ordinary])
            found = [properties.measure(mol, ordinary) for mol in mols if mol is not None]
            values[torch.tensor(rows)[:, None], columns] = torch.tensor(found, dtype=torch.float64)
        if rows and self._oracle is not None:
            columns = torch.tensor([self._names.index(name) for name in self._dft])
            values[torch.tensor(rows)[:, None], columns] = self._oracle.predict([samples[row] for row in rows]).double()
        return dict(zip(self._names, values.unbind(1), strict=True))

    def _chemistry(self, samples: Sequence[Molecule], mols: Sequence[Chem.Mol | None]) -> list[Metric]:
        shares = measures.shares(mols, self._known)
        implied = "no hydrogens implied, radicals count as valid" if self._hydrogens else "hydrogens implied"
        radicals = sum(mol is not None and measures.is_radical(mol) for mol in mols) / max(len(mols), 1)
        return [
            Metric("valid", shares.valid, f"share of all samples: sanitised by RDKit and in one piece; {implied}"),
            Metric("unique", shares.unique, "share of the valid: different molecules, stereochemistry aside"),
            Metric("novel", shares.novel, "share of the different valid molecules: not among the training molecules"),
            Metric("v_u", shares.valid_unique, "share of all samples: valid and different"),
            Metric("v_u_n", shares.valid_unique_novel, "share of all samples: valid, different and new"),
            Metric("radicals", radicals, "share of all samples: valid, but with unpaired electrons"),
            self._edm_valid("edm_valid", samples, self._some),
            *self._stability("", "strict", measures.strict_valences, samples, self._some),
            *(self._stability("", "edm", measures.edm_valences, samples, self._some) if self._hydrogens else []),
        ]

    def _edm_valid(self, name: str, samples: Sequence[Molecule], real: Sequence[Molecule]) -> Metric:
        meaning = "share of all samples: sanitised by RDKit, in any number of pieces, as in EDM's tables"
        return _beside(name, lambda those: _share(self._edm_mols(those)), samples, real, meaning)

    def _edm_mols(self, molecules: Sequence[Molecule]) -> list[Chem.Mol | None]:
        return [measures.edm_validated(molecule, self._hydrogens) for molecule in molecules]

    def _stability(
        self,
        prefix: str,
        table: str,
        allowed: measures.Valences,
        samples: Sequence[Molecule],
        real: Sequence[Molecule],
    ) -> list[Metric]:
        rule = "the sum of bond orders is" if self._hydrogens else "the sum of bond orders does not exceed"
        words = "by element and charge" if table == "strict" else "in EDM's table, by element alone"
        meaning = f"{rule} one that a closed shell has {words}" if table == "strict" else f"{rule} one {words}"

        def share(of_atoms: bool, molecules: Sequence[Molecule]) -> float:
            stable = [measures.stable_atoms(molecule, allowed, self._hydrogens) for molecule in molecules]
            whole = [bool(atoms.all()) and len(atoms) > 0 for atoms in stable]
            return float(numpy.mean(numpy.concatenate(stable) if of_atoms else whole))

        atoms, molecules = partial(share, True), partial(share, False)
        return [
            _beside(
                f"{prefix}stable_{table}", molecules, samples, real, f"share of all samples: of every atom {meaning}"
            ),
            _beside(f"{prefix}stable_atoms_{table}", atoms, samples, real, f"share of all atoms: {meaning}"),
        ]

    def _lookup(self, samples: Sequence[Molecule]) -> list[Metric]:
        """The metrics of EDM's tables: bonds from distances, charges zero, whatever bonds were generated."""
        looked = [relooked(sample) for sample in samples]
        real = [relooked(molecule) for molecule in self._some]
        words = "bonds looked up from distances, as in EDM's tables: "
        v_u = measures.shares(self._edm_mols(looked)).valid_unique
        valid = measures.shares([measures.validated(molecule, True) for molecule in looked]).valid
        metrics = [
            self._edm_valid("lookup_edm_valid", looked, real),
            Metric("lookup_edm_v_u", v_u, "share of all samples: valid so, and different by their largest piece"),
            Metric("lookup_valid", valid, "share of all samples: sanitised by RDKit and in one piece"),
            *self._stability("lookup_", "edm", measures.edm_valences, looked, real),
        ]
        return [Metric(metric.name, metric.value, words + metric.meaning) for metric in metrics]

    def _plausibility(self, mols: Sequence[Chem.Mol | None]) -> list[Metric]:
        if not plausibility.available():
            return []
        valid = [mol for mol in mols if mol is not None]
        share = plausibility.plausible_share(valid[:_CHECKED]) if valid else 0.0
        added = "" if self._hydrogens else ", hydrogens added with places"
        meaning = f"share of all samples: valid, and pass PoseBusters' checks of molecules{added}"
        meaning += "; a check that cannot be done is not passed, which some real molecules in tight rings are told too"
        if len(valid) > _CHECKED:
            meaning += f"; judged by the first {_CHECKED} of {len(valid)} valid ones"
        return [Metric("pb_valid", share * len(valid) / max(len(mols), 1), meaning)]

    def _distances(self, valid: Sequence[Molecule]) -> list[Metric]:
        measurements = {measured for _, measured, _, _ in GEOMETRY}  # some are compared in two ways
        found = {measured: (measured(valid), measured(self._reference)) for measured in measurements}
        metrics = []
        for name, measured, compare, meaning in GEOMETRY:
            metrics += self._against(name, *found[measured], compare, meaning)
        return metrics

    def _property_distances(self, values: dict[str, Tensor]) -> list[Metric]:
        metrics = []
        for column, (name, row) in enumerate(values.items()):
            reference = measures.per_molecule(self._properties[:, column])
            meaning = f"1-Wasserstein distance of {name} in standard deviations of the real"
            if name in self._dft and self._oracle is not None:
                mae, plain = self._oracle.mae[name], self._oracle.mean_mae[name]
                unit = properties.DFT[name].unit
                told = f"mean absolute error in {unit} of the regressor that measures samples, on molecules new to it"
                metrics.append(
                    Metric(f"{name}_regressor_mae", mae, f"{told}; that of always saying the mean: {plain:.4g}")
                )
                meaning += "; that of samples by a regressor"
            sampled = measures.per_molecule(row.numpy())
            metrics += self._against(f"{name}_w1", sampled, reference, measures.relative_distance, meaning)
        return metrics

    def _against(
        self, name: str, samples: Measured, reference: Measured, compare: Comparison, meaning: str
    ) -> list[Metric]:
        halves = measures.halves(compare, reference) if len(reference.values) else math.nan
        return [
            Metric(name, compare(samples, reference), f"{meaning}; valid samples against {self._words}"),
            Metric(f"{name}_real", halves, "the same between two halves of those real molecules, mean of 5 splits"),
        ]


def _starts(parts: Sequence[TensorDict]) -> list[tuple[TensorDict, int]]:
    """Each part, and how many molecules are in those before it. Parts may have padding of their own."""
    starts = itertools.accumulate(map(len, parts), initial=0)
    return list(zip(parts, starts, strict=False))


def _share(mols: Sequence[Chem.Mol | None]) -> float:
    return sum(mol is not None for mol in mols) / max(len(mols), 1)


def _beside(
    name: str,
    measure: Callable[[Sequence[Molecule]], float],
    samples: Sequence[Molecule],
    real: Sequence[Molecule],
    meaning: str,
) -> Metric:
    """A metric of samples whose meaning also says what real molecules have."""
    return Metric(name, measure(samples), f"{meaning}; of {len(real)} real molecules: {measure(real):.4g}")


def build_evaluator(codec: Codec, data: Data, cache: Path) -> MoleculeEvaluator:
    """The evaluator of a data set; `codec.facts` are its `MoleculeFacts`."""
    return MoleculeEvaluator(codec.facts, data, cache)  # type: ignore[attr-defined]
