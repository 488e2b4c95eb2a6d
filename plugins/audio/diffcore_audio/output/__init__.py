"""Sounds to files and pictures."""
