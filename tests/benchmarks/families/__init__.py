"""Families of generative models that are trained on the same digits with the same budget.

Each module of a family has `train(task, options, steps, seed, folder)`, which trains and writes a checkpoint into the
folder, and `load(options, folder)`, which reads it; both return a `Model`.
"""
