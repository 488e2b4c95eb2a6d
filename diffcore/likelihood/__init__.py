"""How probable data are: exact log-likelihood by the probability flow, and the variational bound."""
