"""Sampling: time grids, solvers, guidance, inverse problems and the loop that they share."""
