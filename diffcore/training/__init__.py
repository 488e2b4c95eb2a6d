"""Training: the loop, its state, recovery from divergence, averaged weights, several processes, events and loggers."""
