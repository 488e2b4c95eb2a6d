"""Blocks that several modalities share."""
