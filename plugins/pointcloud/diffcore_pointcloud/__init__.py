"""The point cloud plugin of diffcore."""
