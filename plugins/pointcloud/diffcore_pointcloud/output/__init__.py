"""Writes point clouds to files, pictures and the report."""
