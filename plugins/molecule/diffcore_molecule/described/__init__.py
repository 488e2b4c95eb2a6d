"""Sentences that describe molecules by what RDKit knows of them, and the same for samples."""
