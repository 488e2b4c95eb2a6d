"""What plugins need to make runs of the models of other programs, and to read runs for other programs."""
