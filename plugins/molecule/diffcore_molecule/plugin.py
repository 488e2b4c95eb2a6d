"""The records of this plugin. Importing them is fast: torch, rdkit and e3nn are imported when a part is built."""

from collections.abc import Iterable

from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Component, Modality, Widget, lazy
from diffcore_molecule.options import (
    AtomsOptions,
    AutoencoderOptions,
    EmbeddedOptions,
    EquivariantOptions,
    FileOptions,
    MoleculeFacts,
    QM9Options,
    SmilesOptions,
    TransformerOptions,
    WritingOptions,
)
from diffcore_molecule.presets import PRESETS

API_VERSION = 2

_lazy = lazy("diffcore_molecule")

MOLECULE = Modality(
    name="molecule",
    summary="molecules: graphs with 3D coordinates",
    datasets=(
        Component(
            "embedded",
            "10,000 molecules of QM9, included in the plugin",
            _lazy("data.datasets:embedded"),
            EmbeddedOptions,
        ),
        Component("qm9", "QM9: 130,831 small molecules with DFT properties", _lazy("data.datasets:qm9"), QM9Options),
        Component("sdf", "your own SDF or MOL2 file, with 3D coordinates", _lazy("data.datasets:sdf"), FileOptions),
        Component(
            "smiles",
            "your own SMILES, with conformers by ETKDG",
            _lazy("data.datasets:smiles"),
            SmilesOptions,
        ),
    ),
    denoisers=(
        Component(
            "equivariant",
            "E(3)-equivariant message passing, built on e3nn",
            _lazy("networks.builders:equivariant"),
            EquivariantOptions,
            symmetries=("permutation", "rotation", "reflection"),
            accepts=("tokens", "known", "estimate"),
            small={"width": 16, "pair_width": 16, "depth": 2, "heads": 4, "inner": 4},
        ),
        Component(
            "transformer",
            "transformer over atoms; needs the random rotations of training",
            _lazy("networks.builders:transformer"),
            TransformerOptions,
            symmetries=("permutation",),
            accepts=("tokens", "estimate"),
            small={"width": 32, "pair_width": 16, "depth": 2, "heads": 4, "inner": 4},
        ),
        Component(
            "atoms",
            "transformer over latents of atoms, for runs with a first stage",
            _lazy("networks.builders:atoms"),
            AtomsOptions,
            accepts=("tokens",),
            small={"width": 32, "depth": 2, "heads": 4},
        ),
    ),
    networks={
        "autoencoder": (
            Component(
                "atoms",
                "transformers over atoms; a vector for each atom, which also holds the bonds",
                _lazy("networks.builders:autoencoder"),
                AutoencoderOptions,
                small={"width": 32, "pair_width": 16, "depth": 1, "heads": 4, "inner": 4},
            ),
        )
    },
    fidelity=_lazy("evaluation.fidelity:fidelity"),
    classifiers=(
        Component(
            "equivariant",
            "E(3)-invariant predictions of conditions, built on e3nn",
            _lazy("networks.builders:invariant_predictor"),
            EquivariantOptions,
        ),
    ),
    presets=PRESETS,
    facts=MoleculeFacts,
    codec=_lazy("codec:MoleculeCodec"),
    writer=_lazy("output.writer:MoleculeWriter"),
    writing=WritingOptions,
    givens={"conformers": "SMILES, one in each line: draws --n sets of positions for each"},
    evaluator=_lazy("evaluation.evaluator:build_evaluator"),
    reader=_lazy("data.reader:MoleculeReader"),
    distance=_lazy("evaluation.distance:TanimotoDistance"),
    widgets=(Widget("free", "Choose the atoms that are drawn anew.", _lazy("output.atoms:atom_chooser")),),
    scorer=_lazy("output.scores:MoleculeScorer"),
    contract=_lazy("contract:contract"),
    requires=("torch", "rdkit", "e3nn"),
)


@hookimpl
def diffcore_modalities() -> Iterable[Modality]:
    return (MOLECULE,)
