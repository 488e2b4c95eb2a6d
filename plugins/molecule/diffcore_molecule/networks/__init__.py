"""Networks for noisy molecules: denoisers, and the predictor of conditions for guidance."""
