"""Molecules for diffcore: graphs with 3D geometry."""
