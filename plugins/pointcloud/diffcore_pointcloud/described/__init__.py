"""Sentences that describe generated furniture, and what measures the same of clouds."""
