"""Inverse problems: samples that agree with a measurement, such as inpainting and super-resolution."""
