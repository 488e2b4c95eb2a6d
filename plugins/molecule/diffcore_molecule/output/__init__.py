"""Writes molecules to files, pictures and the report."""
