"""A modality-agnostic diffusion core: schedules, denoisers, losses, guidance, solvers, and the plugins that use it."""
