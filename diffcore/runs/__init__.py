"""A run: its settings, its model and weights, its folder, checkpoints and lock, and how samples are drawn from it."""
