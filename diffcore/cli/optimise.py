"""`diffcore optimise RUN --property NAME`: samples with a high value of a function."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from diffcore.cli.options import DrawOptions, run_of, sampling_of, trust_field
from diffcore.cli.sample import asked_for, one_or_all
from diffcore.cli.screen import say
from diffcore.cli.selectors import read, take_table
from diffcore.errors import UserError
from diffcore.plugins import registry as plugins
from diffcore.runs.folder import RunFolder


class Options(DrawOptions):
    """The options of `diffcore optimise`."""

    property: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (),
        description="What is optimised: the name of a value, as for --keep, or a Python function of a sample, "
        "module:function or NAME=module:function. Further ones are functions for --keep.",
    )
    minimise: bool = Field(False, description="Search for low values.")
    rounds: int = Field(5, ge=1, description="How many rounds; more of them go on where an earlier call ended.")
    per_round: int = Field(200, ge=1, description="How many samples are drawn and judged in a round.")
    n: int = Field(16, ge=1, description="How many of the best different samples are written.")
    keep: str = Field(
        "", description="Conditions that samples must meet: 'sa<4, no PAINS', and with --from, 'similarity>0.4'."
    )
    from_: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(name="from")] = Field(
        (), description="A file with a sample that the search starts from, in place of free samples; several together."
    )
    strength: tuple[float, ...] = Field(
        (),
        description="How far samples may be from those that they are variations of, above 0, to 1, which is free; the "
        "default is several, of which those that succeed are used more.",
    )
    label: tyro.conf.UseAppendAction[tuple[str, ...]] = Field((), description="Short for --condition label=...")
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (), description="A text that says what the samples are; several in turn."
    )
    condition: tyro.conf.UseAppendAction[tuple[str, ...]] = Field((), description="key=value, once for each condition.")
    target: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (), description="The same as --condition, for numbers: key=2.5, or key=40..60 for a range."
    )
    size: str | None = Field(None, description="How large free samples are, as for diffcore sample.")
    out: Path | None = Field(
        None, description="A folder, or one file whose ending the modality writes; what was judged lies beside it."
    )
    columns: str | None = Field(None, description="The columns of a table, as for diffcore sample.")
    trust: bool = trust_field("read files")
    replace: bool = Field(False, description="Replace what --out contains.")


def main(arguments: Sequence[str]) -> int:
    registry = plugins.installed()
    arguments, write = take_table(arguments, "write")
    about = (
        "Search for samples of a high value. Each round draws variations of the best samples so far, and free ones, "
        "and judges them."
    )
    chosen = read(Options, arguments, registry, "diffcore optimise", about)
    options = chosen.options
    if not options.property:
        raise UserError("--property says what is optimised: the name of a value, or module:function")
    run = run_of(options, registry)
    wanted, *functions = options.property
    name = re.sub(r"[^\w.+-]+", "_", wanted.partition("=")[0])
    out = options.out or RunFolder(options.run).samples / f"{name}-seed-{options.seed}"
    found = run.optimise(
        wanted,
        rounds=options.rounds,
        per_round=options.per_round,
        n=options.n,
        minimise=options.minimise,
        keep=options.keep,
        properties=functions,
        start=options.from_,
        strengths=options.strength,
        out=out,
        replace=options.replace,
        write=write,
        columns=options.columns,
        prompt=one_or_all(options.prompt),
        conditions=asked_for(options, [each.name for each in run.model.codec.conditions], options.per_round),
        seed=options.seed,
        size=options.size,
        **sampling_of(chosen),
    )
    say(f"{len(found.samples)} samples, from {found.values[0]:.4g} to {found.values[-1]:.4g}: {out}")
    say(f"all {len(found.candidates):,} that were judged, and the rounds: {found.folder}")
    return 0
