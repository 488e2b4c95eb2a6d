"""The forward process, which adds noise to data: noise schedules, the Gaussian steps between levels, and the SDE."""
