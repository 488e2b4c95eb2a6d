"""The molecule plugin of diffcore: molecular graphs with 3D coordinates."""
