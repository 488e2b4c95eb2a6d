"""What is learned: denoisers and noisy classifiers, their losses, the conditions they are given."""
