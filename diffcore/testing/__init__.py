"""For tests of diffcore and of plugins: denoisers in closed form, and the checks that every plugin must pass."""

from typing import Any

__all__ = ["ModalityTests", "PartTests"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported when it is used, as it imports much more than the oracles need
        from diffcore.testing import suite

        return getattr(suite, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
