"""What is trained: the batch of a training step and its loss."""
