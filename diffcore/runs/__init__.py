"""A run: its settings, its model and weights, its folder, checkpoints and lock, and samples drawn from it."""
