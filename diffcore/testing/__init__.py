"""What tests of diffcore and of plugins can compare with, and the checks that every plugin is held to."""

from typing import Any

__all__ = ["ModalityTests"]


def __getattr__(name: str) -> Any:
    if name == "ModalityTests":  # imported when asked for: it needs torch, as the oracles do not all
        from diffcore.testing.suite import ModalityTests

        return ModalityTests
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
