"""Geometry of points and surfaces, computed by PyTorch3D or by torch and scipy."""
