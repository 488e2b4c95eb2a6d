"""Molecules to files and pictures."""
