"""A widget in which a visitor of `diffcore demo` chooses the atoms of a molecule that are drawn anew."""

from collections.abc import Sequence

from diffcore.plugins.fragments import fragment
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.codec import MoleculeCodec
from diffcore_molecule.output.depiction import drawing_of_atoms
from diffcore_molecule.output.records import record

_SIZE = 320, 240
"""Width and height of the depiction, in pixels."""


def atom_chooser(codec: MoleculeCodec, sample: Sequence[Molecule]) -> str:
    """An HTML fragment with one molecule; it chooses numbers of atoms, from 1, such as `3,4,7`."""
    width, height = _SIZE
    drawn, places = drawing_of_atoms(record(sample[0], codec.facts.hydrogens), width, height)
    buttons = "".join(
        f'<button type="button" aria-pressed="false" data-atom="{number}" aria-label="{symbol} {number}" '
        f'style="left:{100 * x / width:.2f}%;top:{100 * y / height:.2f}%">{number}</button>'
        for number, (symbol, x, y) in enumerate(places, 1)
    )
    values = {"drawing": drawn, "buttons": buttons, "width": width}
    return fragment("diffcore_molecule.output", "atoms.html", values)
