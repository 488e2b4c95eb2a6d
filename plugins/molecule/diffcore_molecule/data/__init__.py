"""Data sets of molecules: embedded, QM9 and a user's own files."""
