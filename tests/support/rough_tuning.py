"""Levels that are fitted in less time, for tests in which how good they are does not matter."""

from functools import partial

from diffcore.runs import tuning
from diffcore.sampling import grid_fitting


def rough_tuning(monkeypatch):
    """Two methods are fitted to rough trajectories, from two starts; the algorithm is tested in full elsewhere."""
    monkeypatch.setattr(tuning, "flow_of", partial(grid_fitting.flow_of, accurate=10))
    monkeypatch.setattr(grid_fitting, "METHODS", grid_fitting.METHODS[:2])
    monkeypatch.setattr(tuning, "starting_grids", lambda *of: grid_fitting.starting_grids(*of)[:2])
