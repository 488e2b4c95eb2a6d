"""States that a denoiser is told beside the noisy one, among its conditions.

They travel under names that no condition has. So guidance, which evaluates a denoiser with several sets of conditions
in one batch, takes them along, and never drops them.
"""

from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.states.state import State, fields, from_fields

KINDS = ("known", "estimate")
"""What is told: which entries are known (`diffcore.denoising.known`), and an estimate (`diffcore.denoising.estimate`).
"""


def told(kind: str, state: State) -> dict[str, Tensor]:
    """A state `[B, ...]` as entries of a mapping of conditions."""
    return {f"{kind}: {name}": value for name, value in fields(state).items()}


def told_in(kind: str, conditions: Conditions | None) -> State | None:
    """The state of that kind that is among the `conditions`; None if there is none."""
    prefix = f"{kind}: "
    found = {name.removeprefix(prefix): value for name, value in (conditions or {}).items() if name.startswith(prefix)}
    return from_fields(found) if found else None


def conditions_alone(conditions: Conditions | None) -> Conditions | None:
    """The conditions without all that is told beside them; None if there are none."""
    prefixes = tuple(f"{kind}: " for kind in KINDS)
    return {name: value for name, value in (conditions or {}).items() if not name.startswith(prefixes)} or None
