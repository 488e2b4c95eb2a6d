"""Training: the loop, recovery from divergence, averaged weights, several processes, events and loggers."""
