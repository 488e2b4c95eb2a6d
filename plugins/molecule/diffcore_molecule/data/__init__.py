"""Data sets of molecules: a part of QM9 that is included, QM9 itself, and files of the user."""
