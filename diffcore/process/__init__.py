"""The forward process: what noise does to data, by noise schedule, as a Markov chain and as an SDE."""
