"""Solvers: one small function a method, the step from a level to a cleaner one."""

from diffcore.solvers.adams import adams
from diffcore.solvers.ancestral import ddpm
from diffcore.solvers.ddim import ddim
from diffcore.solvers.dpmpp import dpmpp_2m
from diffcore.solvers.edm import edm, heun
from diffcore.solvers.euler import euler
from diffcore.solvers.langevin import langevin, pc
from diffcore.solvers.step import Evaluate, Move, Step

__all__ = [
    "Evaluate", "Move", "Step", "adams", "ddim", "ddpm", "dpmpp_2m", "edm", "euler", "heun", "langevin", "pc",
]  # fmt: skip
