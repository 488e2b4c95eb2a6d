"""Likelihoods of data: the exact log-likelihood by the probability flow, and the variational bound."""
