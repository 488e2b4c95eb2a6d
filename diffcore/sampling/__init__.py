"""From noise to data: time steps, solvers, guidance, inverse problems and the loop they share."""
