"""Options of the plugin's parts, and what is known of a set of molecules."""

from pydantic import Field

from diffcore.plugins.records import Place, Settings


class PropertyFacts(Settings):
    """How a property is spread over the training molecules."""

    name: str
    unit: str = ""
    mean: float
    std: float = Field(ge=0)
    quantiles: tuple[float, ...] = Field(min_length=2)
    """Evenly spaced quantiles, from the smallest value to the largest."""
    by_size: tuple[tuple[float, float], ...]
    """Mean and standard deviation among molecules of each number of atoms, in the order of `MoleculeFacts.sizes`."""


class MoleculeFacts(Settings):
    """What samples need to know of the molecules a model was trained on."""

    hydrogens: bool
    """Whether hydrogens are atoms of their own."""
    elements: tuple[int, ...] = Field(min_length=1)
    """Atomic numbers, rising."""
    element_shares: tuple[float, ...]
    charges: tuple[int, ...] = Field(min_length=1)
    """Formal charges, rising."""
    charge_shares: tuple[float, ...]
    bond_shares: tuple[float, float, float, float]
    """Shares of pairs of atoms with no bond, a single, a double, a triple one."""
    position_std: float = Field(gt=0)
    """Standard deviation of coordinates about the centre, Angstrom."""
    max_atoms: int = Field(ge=1, le=512)
    sizes: tuple[int, ...] = Field(min_length=1)
    """Numbers of atoms that occur, rising."""
    size_counts: tuple[int, ...]
    properties: tuple[PropertyFacts, ...] = ()
    """The properties that samples can be asked for."""


class DataOptions(Settings):
    """What all sets of molecules have in common."""

    properties: tuple[str, ...] = Field(
        ("logp", "tpsa", "qed"),
        description="Properties that samples can be asked for; the flag without names: none, an unconditional model.",
    )
    hydrogens: bool = Field(False, description="Hydrogens as atoms of their own, instead of implied ones.")
    seed: int = Field(0, ge=0, description="Decides which molecules are held out.")


class EmbeddedOptions(DataOptions):
    held_out: float = Field(0.1, gt=0, le=0.5, description="Share kept back for the metrics.")


class QM9Options(DataOptions):
    root: Place = Field(None, description="The file dsgdb9nsd.xyz.tar.bz2, or the folder that holds it.")
    half: bool = Field(
        False, description="Train on half of the training molecules and hold out the other half, for DFT properties."
    )


class FileOptions(DataOptions):
    path: Place = Field(None, description="The file.")
    held_out: float = Field(0.1, gt=0, le=0.5, description="Share kept back for the metrics.")
    max_atoms: int = Field(64, ge=1, le=512, description="Larger molecules are left out, and counted.")
    time_limit: float = Field(30.0, gt=0, description="Seconds that the conformers of a molecule may take.")


class SmilesOptions(FileOptions):
    conformers: int = Field(1, ge=1, description="Conformers by ETKDG for each molecule.")
    relax: bool = Field(True, description="Relax conformers with the force field MMFF94.")
    column: str = Field("smiles", description="The column of a table that holds the SMILES.")


class EquivariantOptions(Settings):
    width: int = Field(64, ge=8, description="Channels of an atom's features of each degree.")
    pair_width: int = Field(48, ge=8, description="Channels of a pair of atoms.")
    depth: int = Field(5, ge=1, description="Layers.")
    degree: int = Field(1, ge=1, le=3, description="Highest degree l of the features and spherical harmonics.")
    heads: int = Field(
        8, ge=1, description="Groups of channels that share the weights of their messages; divides width."
    )
    inner: int = Field(16, ge=1, description="Inner products of atoms that each pair sees, a degree.")


class TransformerOptions(Settings):
    width: int = Field(128, ge=8, description="Size of an atom's token.")
    pair_width: int = Field(48, ge=8, description="Channels of a pair of atoms.")
    depth: int = Field(6, ge=1, description="Blocks.")
    heads: int = Field(8, ge=1, description="Attention heads; divides width.")
    inner: int = Field(16, ge=1, description="Products of two tokens that each pair sees.")
