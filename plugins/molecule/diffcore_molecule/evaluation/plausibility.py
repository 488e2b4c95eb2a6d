"""Whether molecules are physically plausible, by the checks of PoseBusters (Buttenschoen et al. 2024)."""

import functools
import importlib.util
import logging
import os
from collections.abc import Sequence
from typing import Any

from rdkit import Chem

from diffcore_molecule.timeout_pool import limited_map


def available() -> bool:
    """Whether the package posebusters is installed."""
    return importlib.util.find_spec("posebusters") is not None


@functools.cache
def _busters() -> Any:
    from posebusters import PoseBusters

    logging.getLogger("posebusters").setLevel(logging.CRITICAL)  # it tells of each check that cannot be done
    return PoseBusters("mol")


def plausible(mol: Chem.Mol) -> bool:
    """Whether a sanitised molecule with a conformer passes all checks of the configuration `mol`.

    Bond lengths and angles, clashes, flat rings and double bonds, strain, no radicals, one piece, and sanity. Implied
    hydrogens are added, with places, first. A check that cannot be done counts as not passed.
    """
    table = _busters().bust([Chem.AddHs(mol, addCoords=True)])
    return bool(table.fillna(False).astype(bool).all(axis=None))


def plausible_share(mols: Sequence[Chem.Mol], seconds: float = 20.0) -> float:
    """The share that is plausible; what takes more than `seconds`, or fails, is not. NaN where there are none."""
    workers = min(4, os.cpu_count() or 1)
    passed = [result is True for result in limited_map(plausible, mols, seconds, workers)]
    return sum(passed) / len(passed) if passed else float("nan")
