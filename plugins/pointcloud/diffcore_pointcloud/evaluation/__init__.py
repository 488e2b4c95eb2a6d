"""Metrics of generated point clouds."""
