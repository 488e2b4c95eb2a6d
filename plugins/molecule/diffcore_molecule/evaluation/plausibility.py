"""Physical plausibility of molecules by the checks of PoseBusters (Buttenschoen et al. 2024)."""

import functools
import importlib.util
import logging
import os
from collections.abc import Sequence
from typing import Any

from rdkit import Chem

from diffcore.evaluation.effort import examined, patience
from diffcore_molecule.timeout_pool import timeout_map


def available() -> bool:
    """Whether the package posebusters is installed."""
    return importlib.util.find_spec("posebusters") is not None


@functools.cache
def _busters() -> Any:
    from posebusters import PoseBusters

    logging.getLogger("posebusters").setLevel(logging.CRITICAL)  # it logs each check that cannot be done
    return PoseBusters("mol")


def plausible(mol: Chem.Mol) -> bool:
    """Whether a sanitised molecule with a conformer passes all checks of PoseBusters' configuration `mol`.

    It checks bond lengths and angles, clashes, flatness of rings and double bonds, strain, radicals, connectedness and
    sanitisation. Implicit hydrogens are first added, with positions. A check that cannot be done counts as failed.
    """
    table = _busters().bust([Chem.AddHs(mol, addCoords=True)])
    return bool(table.fillna(False).astype(bool).all(axis=None))


def plausible_each(mols: Sequence[Chem.Mol], seconds: float = 20.0) -> list[bool]:
    """Whether each molecule is plausible. A check that takes more than `seconds` has failed."""
    workers = min(4, os.cpu_count() or 1, 1 + len(mols) // 50)  # each takes seconds to start
    return [result is True for result in timeout_map(plausible, mols, patience(seconds), workers)]


def plausible_fraction(mols: Sequence[Chem.Mol], seconds: float = 20.0) -> float:
    """The fraction of plausible molecules, NaN for no molecules. A check that takes more than `seconds` has failed."""
    passed = plausible_each(mols[: examined(len(mols))], seconds)
    return sum(passed) / len(passed) if passed else float("nan")
