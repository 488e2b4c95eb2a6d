"""Molecules as RDKit has them: properties, bonds and conformers."""
