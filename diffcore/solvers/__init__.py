"""Solvers: one small function a method, the step from a level to a cleaner one."""

from diffcore.solvers.ancestral import ddpm
from diffcore.solvers.ddim import ddim
from diffcore.solvers.dpmpp import dpmpp_2m
from diffcore.solvers.step import Evaluate, Move, Step

__all__ = ["Evaluate", "Move", "Step", "ddim", "ddpm", "dpmpp_2m"]
