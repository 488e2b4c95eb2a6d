"""The evaluator of molecules: fractions of valid, stable and novel samples, and distances to real molecules.

The meaning of every metric says what a fraction refers to or what a distance compares, and what real molecules reach.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from rdkit import Chem
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.evaluation.effort import examined
from diffcore.plugins.data import Codec, Data
from diffcore.plugins.output import Metric
from diffcore.plugins.text import prompts_of
from diffcore.states.noise import generator_for
from diffcore_molecule.chemistry import properties
from diffcore_molecule.chemistry.bond_inference import with_inferred_bonds
from diffcore_molecule.chemistry.dft import DFT
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.codec import PROPERTIES
from diffcore_molecule.data.examples import molecule_at
from diffcore_molecule.data.store import without_function
from diffcore_molecule.described.metrics import prompt_metrics
from diffcore_molecule.evaluation import metrics as molecule_metrics
from diffcore_molecule.evaluation import plausibility
from diffcore_molecule.evaluation.centres import TAILS, sp3_volumes, within_range
from diffcore_molecule.evaluation.contacts import NEAR, contact_fraction
from diffcore_molecule.evaluation.metrics import Comparison, Measurements
from diffcore_molecule.evaluation.property_regressor import trained_regressor
from diffcore_molecule.evaluation.sides import drawn_values, obtained_values
from diffcore_molecule.evaluation.stability import placed_stability, stability, with_real
from diffcore_molecule.options import MoleculeFacts

_MIN_HELD_OUT = 2000
"""With at least so many held-out molecules samples are compared with these, otherwise with all real molecules."""
_MAX_REFERENCE = 5000
"""The largest number of real molecules that samples are compared with, drawn with a fixed seed."""
_REAL_SAMPLES = 1000
"""The number of these whose fractions are reported next to those of the samples."""
_MAX_CHECKED = 100
"""The largest number of samples that PoseBusters checks, which is slow."""

GEOMETRY: tuple[tuple[str, Callable[[Sequence[Molecule]], Measurements], Comparison, str], ...] = (
    (
        "bond_lengths",
        molecule_metrics.bond_lengths,
        molecule_metrics.distance,
        "mean 1-Wasserstein distance of bond lengths in A, by kind of bond",
    ),
    (
        "bond_angles",
        molecule_metrics.bond_angles,
        molecule_metrics.distance,
        "mean 1-Wasserstein distance of bond angles in degrees, by central element",
    ),
    (
        "bond_kinds",
        molecule_metrics.bond_lengths,
        molecule_metrics.total_variation,
        "total variation distance of the frequencies of kinds of bonds",
    ),
    (
        "elements",
        molecule_metrics.elements,
        molecule_metrics.total_variation,
        "total variation distance of the frequencies of elements",
    ),
    (
        "sp3_centres",
        sp3_volumes,
        within_range,
        "fraction of the saturated centres with three or four bonds whose smallest chiral volume lies between the "
        f"{TAILS:.1%} and {1 - TAILS:.1%} quantiles of real centres of the same kind",
    ),
    ("atoms", molecule_metrics.sizes, molecule_metrics.distance, "1-Wasserstein distance of the number of atoms"),
    (
        "rings",
        molecule_metrics.rings,
        molecule_metrics.distance,
        "1-Wasserstein distance of the number of independent rings",
    ),
)
"""The metrics of distributions: name, the measurements of molecules, how two sets of them are compared, and meaning."""


class MoleculeEvaluator:
    """Computes metrics of samples against real molecules, and measures the properties that models are conditioned on.

    `data.examples` and `data.held_out` have the fields numbers, charges `[n, N]`, bonds `[n, N, N]`, positions
    `[n, N, 3]`, properties `[n, P]` in the order of `facts.measured`, and identity `[n]`; the number 0 is padding.
    """

    def __init__(self, codec: Codec, data: Data, cache: Path) -> None:
        facts: MoleculeFacts = codec.facts  # type: ignore[attr-defined]
        self._codec, self._described = codec, facts.described
        self._hydrogens = facts.hydrogens
        self._names = tuple(item.name for item in facts.measured)
        self._known = frozenset(data.examples["identity"].tolist())
        self._known_stereo = molecule_metrics.KnownStereo(
            data.examples["identity"].numpy(),
            lambda row: molecule_metrics.validated(molecule_at(data.examples, row), self._hydrogens),
        )
        held_out = data.held_out
        if held_out is not None and len(held_out) >= _MIN_HELD_OUT:
            parts, description = [held_out], "held-out real molecules"
        else:
            parts = [data.examples] if held_out is None else [data.examples, held_out]
            description = "real molecules of the whole data set"
        order = torch.randperm(sum(map(len, parts)), generator=generator_for("real molecules"))
        order = order[:_MAX_REFERENCE].sort().values
        chosen = [part[order[(order >= start) & (order < start + len(part))] - start] for part, start in _starts(parts)]
        self._reference = [molecule_at(part, row) for part in chosen for row in range(len(part))]
        self._properties = torch.cat([part["properties"] for part in chosen]).double().numpy()
        chosen_real = torch.randperm(len(self._reference), generator=generator_for("some real molecules"))
        self._real = [self._reference[row] for row in chosen_real[: examined(_REAL_SAMPLES)].tolist()]
        self._description = f"{len(self._reference)} {description}"
        self._dft = tuple(item.name for item in facts.measured if item.is_dft)
        others = [name for name in self._names if name not in self._dft]
        self._by_rdkit = [name for name in others if name not in without_function(others)]
        self._regressor = None
        if self._dft and held_out is not None:
            columns = [self._names.index(name) for name in self._dft]
            examples = held_out.select("numbers", "charges", "bonds", "positions")
            examples["properties"] = held_out["properties"][:, columns]
            self._regressor = trained_regressor(examples, self._dft, cache)

    def __call__(self, samples: Sequence[Molecule], conditions: Conditions) -> list[Metric]:
        """Metrics of the samples. Metrics that are NaN are left out.

        Only those of sentences that RDKit's answers make depend on the conditions.
        """
        samples = list(samples)
        mols = [molecule_metrics.validated(sample, self._hydrogens) for sample in samples]
        valid = [sample for sample, mol in zip(samples, mols, strict=True) if mol is not None]
        metrics = [
            *(prompt_metrics(mols, self._prompts(conditions, len(samples))) if self._described else []),
            *self._validity(samples, mols),
            *self._stereo(mols),
            *self._contacts(mols),
            *(self._with_inferred_bonds(samples) if self._hydrogens else placed_stability(samples, self._real)),
            *self._plausibility(mols),
            *self._distances(valid),
            *self._property_distances(self._measured(samples, mols)),
        ]
        return [metric for metric in metrics if not math.isnan(metric.value)]

    def _prompts(self, conditions: Conditions, n: int) -> list[str]:
        return prompts_of(self._codec.conditions, conditions, n)

    @property
    def errors(self) -> dict[str, float]:
        """The mean absolute errors of the regressor, on molecules that it has not seen; empty without one."""
        return {} if self._regressor is None else dict(self._regressor.mae)

    def measure(self, samples: Sequence[Molecule]) -> dict[str, Tensor]:
        """Each property of every sample, `[n]` float64; NaN for samples that are not valid (sanitised, one piece).

        Properties are computed by RDKit, those of DFT by a regressor. The latter are NaN if there are no held-out
        molecules on which the regressor could be trained. Properties that only the user's file knows are left out.
        """
        return self._measured(samples, [molecule_metrics.validated(sample, self._hydrogens) for sample in samples])

    def of_side(self, name: str, samples: Sequence[Molecule], real: Sequence[Molecule]) -> list[Metric]:
        """Properties that were drawn for `real` molecules, or molecules that were drawn for their properties.

        The values of `real` molecules are those of the data. `properties_NAME_mae` is the mean absolute error of drawn
        values, and `molecule_NAME_mae` that of the values of drawn molecules, as `measure` finds them.
        """
        if name == PROPERTIES:
            return drawn_values(samples, real, self._codec.facts.joint)  # type: ignore[attr-defined]
        found = self.measure(samples)
        validity = self._validity(samples, [molecule_metrics.validated(each, self._hydrogens) for each in samples])
        metrics = [replace(metric, name=f"molecule_{metric.name}") for metric in validity if metric.name == "valid"]
        return [*metrics, *obtained_values(found, real, self._codec.facts, self.errors)]  # type: ignore[attr-defined]

    def _measured(self, samples: Sequence[Molecule], mols: Sequence[Chem.Mol | None]) -> dict[str, Tensor]:
        values = torch.full((len(samples), len(self._names)), math.nan, dtype=torch.float64)
        rows = [row for row, mol in enumerate(mols) if mol is not None]
        by_rdkit = self._by_rdkit
        if rows and by_rdkit:
            columns = torch.tensor([self._names.index(name) for name in by_rdkit])
            measured = [properties.measure(mol, by_rdkit) for mol in mols if mol is not None]
            values[torch.tensor(rows)[:, None], columns] = torch.tensor(measured, dtype=torch.float64)
        if rows and self._regressor is not None:
            columns = torch.tensor([self._names.index(name) for name in self._dft])
            predicted = self._regressor.predict([samples[row] for row in rows]).double()
            values[torch.tensor(rows)[:, None], columns] = predicted
        found = dict(zip(self._names, values.unbind(1), strict=True))
        return {name: value for name, value in found.items() if name in (*by_rdkit, *self._dft)}

    def _validity(self, samples: Sequence[Molecule], mols: Sequence[Chem.Mol | None]) -> list[Metric]:
        found = molecule_metrics.validity(mols, self._known)
        rule = "explicit hydrogens, radicals count as valid" if self._hydrogens else "implicit hydrogens"
        radicals = sum(mol is not None and molecule_metrics.is_radical(mol) for mol in mols) / max(len(mols), 1)
        return [
            Metric("valid", found.valid, f"fraction of all samples: sanitised by RDKit and in one piece; {rule}"),
            Metric(
                "unique", found.unique, "fraction of the valid samples: different molecules, ignoring stereochemistry"
            ),
            Metric("novel", found.novel, "fraction of the different valid molecules: not among the training molecules"),
            Metric("v_u", found.valid_unique, "fraction of all samples: valid and different"),
            Metric("v_u_n", found.valid_unique_novel, "fraction of all samples: valid, different and novel"),
            Metric("radicals", radicals, "fraction of all samples: valid, but with unpaired electrons"),
            self._edm_valid("edm_valid", samples, self._real),
            *stability("", "strict", samples, self._real, self._hydrogens),
            *(stability("", "edm", samples, self._real, True) if self._hydrogens else []),
        ]

    def _stereo(self, mols: Sequence[Chem.Mol | None]) -> list[Metric]:
        unique, novel = molecule_metrics.stereo_validity(mols, self._known_stereo)
        valid = [mol for mol in mols if mol is not None]
        handed = molecule_metrics.right_handed(valid)
        found = [
            Metric("unique_stereo", unique, "fraction of the valid samples: different molecules or stereoisomers"),
            Metric(
                "novel_stereo",
                novel,
                "fraction of the different valid stereoisomers: not among the training molecules with this "
                "stereochemistry",
            ),
        ]
        if math.isnan(handed):
            return found
        meaning = "fraction of the stereocentres of valid samples that are R, and not S"
        real = molecule_metrics.right_handed(self._real_mols)
        if not math.isnan(real):
            meaning += f"; of {len(self._real)} real molecules: {real:.4g}"
        return [*found, Metric("r_centres", handed, meaning)]

    def _contacts(self, mols: Sequence[Chem.Mol | None]) -> list[Metric]:
        added = "" if self._hydrogens else ", after RDKit has added hydrogens"
        meaning = f"fraction of the valid samples: two atoms more than two bonds apart are closer than {NEAR} A{added}"
        meaning += f"; of {len(self._real)} real molecules: {contact_fraction(self._real_mols):.4g}"
        return [Metric("contacts", contact_fraction([mol for mol in mols if mol is not None]), meaning)]

    @cached_property
    def _real_mols(self) -> list[Chem.Mol]:
        mols = [molecule_metrics.validated(molecule, self._hydrogens) for molecule in self._real]
        return [mol for mol in mols if mol is not None]

    def _edm_valid(self, name: str, samples: Sequence[Molecule], real: Sequence[Molecule]) -> Metric:
        meaning = "fraction of all samples: sanitised by RDKit, in any number of pieces, as in EDM's tables"
        return with_real(name, lambda molecules: _fraction(self._edm_mols(molecules)), samples, real, meaning)

    def _edm_mols(self, molecules: Sequence[Molecule]) -> list[Chem.Mol | None]:
        return [molecule_metrics.edm_validated(molecule, self._hydrogens) for molecule in molecules]

    def _with_inferred_bonds(self, samples: Sequence[Molecule]) -> list[Metric]:
        """The metrics of EDM's tables, with bonds inferred from distances and no charges in place of generated ones."""
        inferred = [with_inferred_bonds(sample) for sample in samples]
        real = [with_inferred_bonds(molecule) for molecule in self._real]
        v_u = molecule_metrics.validity(self._edm_mols(inferred)).valid_unique
        valid = molecule_metrics.validity([molecule_metrics.validated(molecule, True) for molecule in inferred]).valid
        metrics = [
            self._edm_valid("lookup_edm_valid", inferred, real),
            Metric("lookup_edm_v_u", v_u, "fraction of all samples: so valid, and with different largest pieces"),
            Metric("lookup_valid", valid, "fraction of all samples: sanitised by RDKit and in one piece"),
            *stability("lookup_", "edm", inferred, real, True),
        ]
        prefix = "bonds inferred from distances, as in EDM's tables: "
        return [Metric(metric.name, metric.value, prefix + metric.meaning) for metric in metrics]

    def _plausibility(self, mols: Sequence[Chem.Mol | None]) -> list[Metric]:
        if not plausibility.available():
            return []
        valid = [mol for mol in mols if mol is not None]
        fraction = plausibility.plausible_fraction(valid[:_MAX_CHECKED]) if valid else 0.0
        added = "" if self._hydrogens else ", with hydrogens added"
        meaning = f"fraction of all samples: valid, and pass PoseBusters' checks of molecules{added}"
        meaning += "; a check that cannot be done counts as failed, also for some real molecules with strained rings"
        if len(valid) > _MAX_CHECKED:
            meaning += f"; estimated from the first {_MAX_CHECKED} of {len(valid)} valid ones"
        return [Metric("pb_valid", fraction * len(valid) / max(len(mols), 1), meaning)]

    def _distances(self, valid: Sequence[Molecule]) -> list[Metric]:
        functions = {function for _, function, _, _ in GEOMETRY}  # bond lengths are used by two metrics
        found = {function: (function(valid), function(self._reference)) for function in functions}
        metrics = []
        for name, function, compare, meaning in GEOMETRY:
            metrics += self._against(name, *found[function], compare, meaning)
        return metrics

    def _property_distances(self, values: dict[str, Tensor]) -> list[Metric]:
        metrics = []
        for name, row in values.items():
            reference = molecule_metrics.per_molecule(self._properties[:, self._names.index(name)])
            meaning = f"1-Wasserstein distance of {name} in standard deviations of the real molecules"
            if name in self._dft and self._regressor is not None:
                mae, mean_mae = self._regressor.mae[name], self._regressor.mean_mae[name]
                mae_meaning = (
                    f"mean absolute error in {DFT[name].unit} of the regressor that measures samples, on "
                    f"molecules it was not trained on; of a constant prediction of the mean: {mean_mae:.4g}"
                )
                metrics.append(Metric(f"{name}_regressor_mae", mae, mae_meaning))
                meaning += "; a regressor predicts it for samples"
            sampled = molecule_metrics.per_molecule(row.numpy())
            metrics += self._against(f"{name}_w1", sampled, reference, molecule_metrics.relative_distance, meaning)
        return metrics

    def _against(
        self, name: str, samples: Measurements, reference: Measurements, compare: Comparison, meaning: str
    ) -> list[Metric]:
        halves = molecule_metrics.halves(compare, reference) if len(reference.values) else math.nan
        return [
            Metric(name, compare(samples, reference), f"{meaning}; valid samples against {self._description}"),
            Metric(f"{name}_real", halves, "the same between two halves of those real molecules, mean of 5 splits"),
        ]


def _starts(parts: Sequence[TensorDict]) -> list[tuple[TensorDict, int]]:
    """Each part, with the number of molecules in the parts before it. The parts may be padded differently."""
    starts = itertools.accumulate(map(len, parts), initial=0)
    return list(zip(parts, starts, strict=False))


def _fraction(mols: Sequence[Chem.Mol | None]) -> float:
    return sum(mol is not None for mol in mols) / max(len(mols), 1)


def build_evaluator(codec: Codec, data: Data, cache: Path) -> MoleculeEvaluator:
    """The evaluator for a data set; `codec.facts` must be its `MoleculeFacts`."""
    return MoleculeEvaluator(codec, data, cache)
