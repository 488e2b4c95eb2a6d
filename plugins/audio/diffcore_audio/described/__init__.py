"""Sentences that describe the synthesised drums, and what measures the same of any sound."""
