"""Sounds for diffcore."""
