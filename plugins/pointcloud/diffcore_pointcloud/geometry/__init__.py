"""Geometry of points and surfaces, by PyTorch3D or by torch and scipy."""
