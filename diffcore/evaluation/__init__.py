"""How good samples are: metrics, evaluation of a run and its report."""
