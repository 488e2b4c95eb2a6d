"""Formats of files: each module turns the content of a file into the shapes that it contains."""
