"""Metrics of sounds: the evaluator and the features that it compares."""
