"""Names of the alternatives that settings and functions choose from. Importing this module imports nothing heavy."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
"""`auto` takes a GPU where there is one."""

Precision = Literal["float32", "bfloat16"]
"""The type of the numbers inside a network."""

Task = Literal["denoise", "classify"]
"""What a run trains."""

Parallel = Literal["ddp", "fsdp"]
"""How several processes share the weights of a network."""

OnDivergence = Literal["stop", "step-back"]
"""What training does where the loss diverges."""

Parameterisation = Literal["eps", "x0", "v"]
"""What the output of a denoiser means."""

Weighting = Literal["eps", "x0", "v", "min-snr"]
"""Weightings of the loss over the log-SNR; see `diffcore.denoising.losses.WEIGHTINGS`."""

Grid = Literal["tapered", "karras", "time", "log-snr"]
"""Time grids; see `diffcore.sampling.timesteps.GRIDS`."""

Clock = Literal["alpha", "log-snr"]
"""The variable in which the solver `adams` takes x0 to be a polynomial."""

GradientOf = Literal["x", "x0"]
"""Whether a log-weight is a function of the noisy state or of its denoised estimate."""

InverseMethod = Literal["repaint", "mmps", "dps"]
"""Ways to draw samples that agree with a measurement."""

Divergence = Literal["exact", "hutchinson"]
"""How the divergence of the probability flow is computed."""

CheckStatus = Literal["passed", "failed", "expected", "unexpected", "skipped"]
"""How the check of a plugin ended."""

PluginKind = Literal["modality", "solver", "schedule", "guidance", "metric", "dataset", "logger"]
"""Kinds of plugin packages that `diffcore new-plugin` makes."""
