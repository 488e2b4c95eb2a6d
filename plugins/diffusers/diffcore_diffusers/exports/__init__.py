"""Runs of diffcore as models of diffusers."""
