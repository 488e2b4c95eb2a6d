"""Metrics of point clouds."""
