"""Data sets of point clouds, and readers of meshes and clouds."""
