"""Point clouds for diffcore."""
