"""What a run trains: the batch of a training step, and for each task the loss of a batch."""
