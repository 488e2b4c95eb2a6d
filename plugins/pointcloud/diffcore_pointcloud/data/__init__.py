"""Data sets of point clouds, and readers of files of meshes and clouds."""
