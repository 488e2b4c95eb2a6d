"""Solvers: functions that take a state from one noise level to a cleaner one, one function for each method."""

from diffcore.sampling.solvers.adams import adams
from diffcore.sampling.solvers.ancestral import ddpm
from diffcore.sampling.solvers.by_field import of_all_fields, take
from diffcore.sampling.solvers.ddim import ddim
from diffcore.sampling.solvers.dpmpp import dpmpp_2m
from diffcore.sampling.solvers.edm import edm, heun
from diffcore.sampling.solvers.euler import euler
from diffcore.sampling.solvers.langevin import langevin, pc
from diffcore.sampling.solvers.step import Evaluate, Move, Step

__all__ = [
    "Evaluate",
    "Move",
    "Step",
    "adams",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "edm",
    "euler",
    "heun",
    "langevin",
    "of_all_fields",
    "pc",
    "take",
]  # fmt: skip
