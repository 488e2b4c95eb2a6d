"""What is diffused: batches of states, the spaces they live in, the levels of noise and the noise itself."""
