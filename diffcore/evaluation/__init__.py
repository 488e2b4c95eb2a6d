"""Evaluation of samples: metrics, the evaluation of a run, and its report."""
