"""Options of the plugin's parts, and the facts that describe a set of molecules."""

import math
from collections import Counter
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffcore.plugins.records import Place, Settings
from diffcore.plugins.text_facts import TextFacts
from diffcore_molecule.chemistry.dft import DFT

Salts = Literal["drop", "largest"]
"""What is done with molecules of several unconnected pieces, such as salts."""


USUAL_CAPTION = "caption"
"""The data field or column with captions that is used where it is there."""

_Value = Annotated[float, Field(ge=-1e30, le=1e30)]
_Spread = Annotated[float, Field(ge=0, le=1e30)]
_Fraction = Annotated[float, Field(ge=0, le=1)]


class PropertyFacts(Settings):
    """The distribution of a property over the training molecules."""

    name: str = Field(min_length=1, max_length=1000)
    unit: str = Field("", max_length=1000)
    mean: _Value
    std: _Spread
    quantiles: tuple[_Value, ...] = Field(min_length=2, max_length=100_000)
    """Evenly spaced quantiles, from the smallest value to the largest."""
    by_size: tuple[tuple[_Value, _Spread], ...]
    """Mean and standard deviation for each number of atoms, in the order of `MoleculeFacts.sizes`."""
    from_qm9: bool | None = None
    """Whether the values are those of the QM9 file; None in runs of older versions, which do not say it."""

    @model_validator(mode="after")
    def _consistent(self) -> "PropertyFacts":
        if any(first > second for first, second in pairwise(self.quantiles)):
            raise ValueError("quantiles must not decrease")
        return self

    @property
    def is_dft(self) -> bool:
        """Whether the property is one of QM9's DFT properties, and not a function of a user with the same name."""
        return self.name in DFT if self.from_qm9 is None else self.from_qm9


class MoleculeFacts(Settings):
    """Statistics of the training molecules, which the codec needs to encode, to draw sizes and to decode samples."""

    hydrogens: bool
    """Whether hydrogens are explicit atoms."""
    elements: tuple[Annotated[int, Field(ge=1, le=118)], ...] = Field(min_length=1)
    """Atomic numbers that occur, in increasing order."""
    element_fractions: tuple[_Fraction, ...]
    """Fraction of the atoms that have each element."""
    charges: tuple[Annotated[int, Field(ge=-128, le=127)], ...] = Field(min_length=1)
    """Formal charges that occur, in increasing order."""
    charge_fractions: tuple[_Fraction, ...]
    """Fraction of the atoms that have each charge."""
    bond_fractions: tuple[_Fraction, _Fraction, _Fraction, _Fraction]
    """Fraction of the pairs of atoms that have no bond, a single, a double and a triple bond."""
    position_std: float = Field(ge=1e-6, le=1e6)
    """Standard deviation of the coordinates about the centre of their molecule, in Angstrom."""
    max_atoms: int = Field(ge=1, le=512)
    """Number of atoms N of a state."""
    sizes: tuple[Annotated[int, Field(ge=1, le=512)], ...] = Field(min_length=1)
    """Numbers of atoms of a molecule that occur, in increasing order."""
    size_counts: tuple[Annotated[int, Field(ge=1, le=2**53)], ...]
    """Number of molecules of each size."""
    properties: tuple[PropertyFacts, ...] = ()
    """The properties that samples can be conditioned on."""
    joint: tuple[PropertyFacts, ...] = ()
    """The properties that are drawn together with the molecules, as a side of the state."""
    text: TextFacts | None = None
    """The texts of the molecules, if they have any."""
    described: bool = False
    """Whether the texts are sentences that RDKit's answers make, which a judge can compare with samples."""

    @model_validator(mode="after")
    def _consistent(self) -> "MoleculeFacts":
        for name in ("elements", "charges", "sizes"):
            if any(first >= second for first, second in pairwise(getattr(self, name))):
                raise ValueError(f"{name} must increase")
        tables = {
            "element_fractions": (self.element_fractions, "elements", self.elements),
            "charge_fractions": (self.charge_fractions, "charges", self.charges),
            "size_counts": (self.size_counts, "sizes", self.sizes),
            **{f"by_size of {p.name!r}": (p.by_size, "sizes", self.sizes) for p in self.measured},
        }
        for name, (values, of, owners) in tables.items():
            if len(values) != len(owners):
                raise ValueError(f"{name} has {len(values)} entries for {len(owners)} {of}")
        for name in ("element_fractions", "charge_fractions", "bond_fractions"):
            total = math.fsum(getattr(self, name))
            # Molecules of one atom have no pairs, and so no fractions of them.
            if abs(total - 1) > 1e-3 and not (name == "bond_fractions" and total == 0):
                raise ValueError(f"{name} must have the sum 1; it is {total:g}")
        if self.sizes[-1] > self.max_atoms:
            raise ValueError(f"sizes has {self.sizes[-1]} atoms, but max_atoms is {self.max_atoms}")
        if twice := [name for name, count in Counter(p.name for p in self.measured).items() if count > 1]:
            raise ValueError(f"two properties have the name {twice[0]!r}")
        if flat := [p.name for p in self.joint if p.std <= 0]:
            raise ValueError(f"the property {flat[0]!r} has the same value for all molecules, so it cannot be a side")
        return self

    @property
    def measured(self) -> tuple[PropertyFacts, ...]:
        """All properties whose values the examples have, in the order of the column `properties`."""
        return (*self.properties, *self.joint)


class DataOptions(Settings):
    """Options that all data sets of molecules have."""

    properties: tuple[str, ...] = Field(
        ("logp", "tpsa", "qed"),
        description="Properties to condition on; an empty list gives an unconditional model.",
    )
    joint: tuple[str, ...] = Field(
        (),
        description="Properties that are drawn together with the molecules, or either given the other; they take the "
        "place of those of `data.properties`.",
    )
    hydrogens: bool = Field(False, description="Represent hydrogens as explicit atoms; otherwise they are implicit.")
    captions: bool = Field(
        False, description="Describe the molecules in sentences, by what RDKit says of rings and functional groups."
    )
    seed: int = Field(0, ge=0, description="Seed of the split into training and held-out molecules.")

    @property
    def names(self) -> tuple[str, ...]:
        """The properties whose values are needed: those that are drawn with the molecules, or else the conditions."""
        return self.joint or self.properties


class EmbeddedOptions(DataOptions):
    """Options of the data set `embedded`: 10,000 molecules of QM9, which come with the plugin."""

    held_out: float = Field(0.1, gt=0, le=0.5, description="Fraction of the molecules held out for the metrics.")


class QM9Options(DataOptions):
    """Options of the data set `qm9`: the official QM9 file with its DFT properties."""

    root: Place = Field(None, description="The file dsgdb9nsd.xyz.tar.bz2, or the folder that contains it.")
    half: bool = Field(
        False,
        description="Train on half of the training molecules and hold out the other half, as EDM does to measure DFT "
        "properties.",
    )


class FileOptions(DataOptions):
    """Options of the data set `sdf`: an SDF or MOL2 file of the user."""

    path: Place = Field(None, description="The file that contains the molecules.")
    held_out: float = Field(0.1, gt=0, le=0.5, description="Fraction of the molecules held out for the metrics.")
    max_atoms: int = Field(64, ge=1, le=512, description="Largest number of atoms; molecules with more are left out.")
    time_limit: float = Field(
        30.0, gt=0, description="Time limit in seconds for reading a molecule and generating its conformers."
    )
    limit: int | None = Field(
        None, ge=1, description="Read only so many records or lines from the beginning of the file."
    )
    salts: Salts = Field(
        "drop",
        description="Molecules of several pieces, such as salts: drop leaves them out, largest keeps the "
        "largest piece of each.",
    )
    caption: str = Field(
        USUAL_CAPTION,
        min_length=1,
        description="Data field of an SDF file, or column of a table, with captions of the molecules, if it is there.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "FileOptions":
        if self.captions and self.caption != USUAL_CAPTION:
            raise ValueError("`data.captions` writes sentences, and `data.caption` reads others; give one of them")
        return self


class SmilesOptions(FileOptions):
    """Options of the data set `smiles`: a list of SMILES of the user."""

    conformers: int = Field(1, ge=1, description="Number of conformers that ETKDG generates for each molecule.")
    relax: bool = Field(True, description="Relax the conformers with the force field MMFF94.")
    column: str = Field(
        "smiles", description="Column of the SMILES, where the file has a header with names of columns."
    )


class WritingOptions(Settings):
    """Options of the files that samples are written to."""

    hydrogens: bool = Field(
        False,
        description="Write hydrogens as atoms into SDF files, where the model has implicit ones: placed by RDKit, then "
        "relaxed by MMFF94 while all other atoms stay.",
    )


class EquivariantOptions(Settings):
    """Options of the denoiser and the noisy classifier `equivariant`."""

    width: int = Field(64, ge=8, description="Channels of an atom's features of each degree.")
    pair_width: int = Field(48, ge=8, description="Channels of the features of a pair of atoms.")
    depth: int = Field(5, ge=1, description="Number of layers.")
    degree: int = Field(1, ge=1, le=3, description="Highest degree l of the features and of the spherical harmonics.")
    heads: int = Field(
        8, ge=1, description="Groups of channels, each with message weights of its own; must divide the width."
    )
    inner: int = Field(
        16, ge=1, description="Inner products of the features of two atoms that their pair receives, per degree."
    )
    reflections: bool = Field(
        True,
        description="Treat mirror images alike, so that samples have either hand equally often; turn it off to learn "
        "the hands of the molecules.",
    )


class AtomsOptions(Settings):
    """Options of the denoiser `atoms`, of latents."""

    width: int = Field(128, ge=8, description="Size of an atom's token.")
    depth: int = Field(6, ge=1, description="Number of transformer blocks.")
    heads: int = Field(8, ge=1, description="Attention heads; must divide the width.")
    mlp_ratio: float = Field(4.0, gt=0, description="Size of the hidden layer of the MLPs, in units of width.")


class TransformerOptions(Settings):
    """Options of the denoiser `transformer`."""

    width: int = Field(128, ge=8, description="Size of an atom's token.")
    pair_width: int = Field(48, ge=8, description="Channels of the features of a pair of atoms.")
    depth: int = Field(6, ge=1, description="Number of transformer blocks.")
    heads: int = Field(8, ge=1, description="Attention heads; must divide the width.")
    inner: int = Field(16, ge=1, description="Products of the tokens of two atoms that their pair receives.")


class AutoencoderOptions(TransformerOptions):
    """Options of the autoencoder `atoms`."""

    latent: int = Field(8, ge=1, le=1024, description="Numbers of the latent of an atom.")
    width: int = Field(96, ge=8, description="Size of an atom's token.")
    pair_width: int = Field(32, ge=8, description="Channels of the features of a pair of atoms.")
    depth: int = Field(3, ge=1, description="Number of transformer blocks of the encoder, and of the decoder.")
