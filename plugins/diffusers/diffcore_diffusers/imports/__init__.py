"""Configurations and weights of diffusers as options, settings and weights of diffcore."""
