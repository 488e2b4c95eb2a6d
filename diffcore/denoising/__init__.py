"""What is learned: denoisers and noisy classifiers, with their losses, conditions and embeddings."""
