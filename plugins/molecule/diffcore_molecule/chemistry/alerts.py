"""Filters of medicinal chemistry by name, and the score of synthetic accessibility, as RDKit has them."""

from functools import cache

from rdkit import Chem
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

CATALOGS = {
    "PAINS": "substructures that interfere with assays (Baell & Holloway 2010)",
    "BRENK": "unwanted functional groups (Brenk et al. 2008)",
    "NIH": "reactive and problematic groups (Jadhav et al. 2010; Doveston et al. 2015)",
}


def has_alert(mol: Chem.Mol, catalog: str) -> bool:
    """Whether a sanitised molecule with implicit hydrogens has a substructure of a catalog of `CATALOGS`."""
    return bool(_catalog(catalog).HasMatch(mol))


@cache
def _catalog(name: str) -> FilterCatalog:
    parameters = FilterCatalogParams()
    parameters.AddCatalog(getattr(FilterCatalogParams.FilterCatalogs, name))
    return FilterCatalog(parameters)


def synthetic_accessibility(mol: Chem.Mol) -> float:
    """From 1 (easy to make) to 10 (Ertl & Schuffenhauer 2009), by RDKit's contributed `sascorer`."""
    from rdkit.Contrib.SA_Score import sascorer

    return float(sascorer.calculateScore(mol))
