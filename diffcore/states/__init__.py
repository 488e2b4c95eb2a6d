"""What is diffused: batches of states, the spaces to which they belong, noise levels and noise."""
