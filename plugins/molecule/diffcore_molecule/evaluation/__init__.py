"""Metrics of generated molecules."""
