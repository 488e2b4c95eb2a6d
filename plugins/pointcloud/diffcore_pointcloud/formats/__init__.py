"""Formats of files: each module turns a file into the shapes that it contains, without opening any other file."""
