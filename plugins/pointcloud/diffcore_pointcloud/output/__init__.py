"""Point clouds to files and pictures."""
