"""Models in stages: an autoencoder, in whose latents other models draw, and models that enlarge images."""
