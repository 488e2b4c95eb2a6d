"""What a visitor asks for, as the page sends it."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from diffcore.plugins.records import Settings

Text = Annotated[str, StringConstraints(max_length=2000)]


def _size(text: str) -> str:
    if not re.fullmatch(r"\d{1,6}(\.\.\d{1,6})?|\d{0,4}\.\d{1,9}|\d{1,5}x\d{1,5}", text, re.ASCII):
        raise ValueError("write a number such as 9 or 0.5, a range such as 7..9, or 32x32")
    return text


Size = Annotated[str, StringConstraints(max_length=20), AfterValidator(_size)]
Name = Annotated[str, StringConstraints(max_length=200)]


class Source(Settings):
    """A sample of a result, or a file of the visitor."""

    result: Name | None = None
    sample: int = Field(0, ge=0, le=10_000)
    file: Name | None = None


class Wanted(Settings):
    """Samples that a visitor asks for. What is None is as the settings of the run have it.

    There are no paths in it: files are those that the visitor has sent, by the names that they got.

    * `run`: the number of the run on the page.
    * `conditions`: values by name of condition, as they are written on the command line; a file by its name.
    * `action`: `"draw"` from noise; `"vary"`, `"complete"` or `"enlarge"` the `source`; `"given"`, the other sides of
      a joint sample, given its side `side` in the `source`.
    * `mask`, `gap`, `free`, `grow`: what to complete, as for `diffcore.api.run.Run.inpaint`.
    """

    run: int = Field(ge=0, le=1000)
    n: int = Field(16, ge=1, le=10**6)
    seed: int = Field(0, ge=0, lt=2**63)
    steps: int | None = Field(None, ge=1, le=10**6)
    solver: Name | None = None
    guidance: float | None = Field(None, ge=-100, le=100)
    size: Size | None = None
    conditions: dict[Name, Text] = Field({}, max_length=100)
    action: Literal["draw", "vary", "complete", "enlarge", "given"] = "draw"
    source: Source | None = None
    strength: float = Field(0.5, ge=0, le=1)
    mask: Name | None = None
    gap: Name | None = None
    free: Annotated[str, StringConstraints(max_length=20_000)] | None = None
    grow: Name | None = None
    side: Name | None = None
