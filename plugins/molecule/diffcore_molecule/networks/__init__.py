"""Denoisers of molecules."""
