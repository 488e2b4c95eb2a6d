"""`diffcore sample RUN`: samples from a trained run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import Field

from diffcore.cli.options import DrawOptions, run_of, sampling_of, trust_field
from diffcore.cli.screen import say
from diffcore.cli.selectors import read, take, take_table
from diffcore.errors import UserError, as_flags
from diffcore.names import InverseMethod
from diffcore.plugins import registry as plugins
from diffcore.plugins.records import Modality
from diffcore.plugins.registry import Registry
from diffcore.system.files import read_regular, utf8_lines

if TYPE_CHECKING:
    from diffcore.api.run import Run
    from diffcore.runs.output import Written


class Options(DrawOptions):
    """The options of `diffcore sample`."""

    n: int | None = Field(
        None, ge=1, description="How many samples; by default 16, or with --prompts one for each line."
    )
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (),
        description="A text that says what the samples are. If it is given several times, the samples have these texts "
        "in turn.",
    )
    prompts: Path | None = Field(None, description="A file with a prompt in each line, for a sample each.")
    label: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (),
        description="Short for --condition label=...: a class by its name, or by its index from 0, #3. If it is given "
        "several times, the samples have these classes in turn.",
    )
    condition: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (),
        description="key=value, once for each condition; without any, all in turn, or none where files are given.",
    )
    target: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (), description="The same as --condition, for numbers: key=2.5, or key=40..60 for a range; several together."
    )
    size: str | None = Field(
        None,
        description="How large samples are: a number of elements, 9, or, where that varies, 7..9; for sounds, seconds.",
    )
    out: Path | None = Field(
        None, description="A folder, or one file whose ending the modality writes. The same call again goes on there."
    )
    trust: bool = trust_field("read files")
    replace: bool = Field(False, description="Replace the samples of another recipe that --out contains.")
    inpaint: Path | None = Field(
        None, description="Fill in a part of this file: where --mask is white, or what is missing in the file."
    )
    mask: Path | None = Field(None, description="A file of the same size: white is to be filled in, black is known.")
    gap: str | None = Field(
        None, description="The part of the --inpaint file to fill in, in order: 0.2..0.4, for sounds in seconds."
    )
    grow: str | None = Field(
        None, description="How many elements are added to those of the --inpaint file, 3 or 2..4, where sizes vary."
    )
    free: str | None = Field(
        None, description="The numbers of elements of the --inpaint file, from 1, that are drawn anew: 3,4,7."
    )
    attach: str | None = Field(
        None,
        description="The numbers of elements of the --inpaint file, from 1, that new ones may be joined to, where "
        "elements are joined, as by bonds: 3,7.",
    )
    unplaced: bool = Field(
        False,
        description="The place and the size of the --inpaint file in the whole are not known: they are drawn, and the "
        "samples are in the frame of the file.",
    )
    link: Path | None = Field(
        None,
        description="Draw what joins the pieces of this file, where elements are joined, as by bonds: --inpaint of "
        "several pieces, but samples that are not in one piece are drawn again, at most --tries times.",
    )
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = Field(
        None, description="Draw variations of this file, by --strength; with --mask, only where it is white."
    )
    strength: tuple[str, ...] = Field(
        (),
        description="How much --from changes: from 0, the file itself, to 1, anything; the default is 0.5. FIELD=0.5 "
        "for some fields leaves the others as they are.",
    )
    between: tuple[Path, Path] | None = Field(
        None, description="Draw samples that lead from one file to another; --n counts both ends (8 by default)."
    )
    upscale: Path | None = Field(None, description="Draw samples whose block means are this smaller file.")
    given: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (),
        description="SIDE=FILE: draw the other side of a joint state given this one, --n samples for each entry of the "
        "file; for runs with --data.joint, or of two kinds of data.",
    )
    then: tyro.conf.UseAppendAction[tuple[Path, ...]] = Field(
        (),
        description="A run that enlarges the samples: it draws what is written, with its own settings. If it is given "
        "several times, each run enlarges the samples of the one before.",
    )
    keep: str = Field(
        "",
        description="Draw samples again until all meet these conditions, 'qed>0.6, rings=1..3, no PAINS, unique'; the "
        "names are those of --columns.",
    )
    tries: int = Field(100, ge=1, description="--keep: how often each sample is drawn, at most.")
    rank: str = Field(
        "", description="Sort samples: 'targets', by how well --target is met, 'high NAME' or 'low NAME'."
    )
    property: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (),
        description="A Python function of a sample for --keep, --rank and tables: module:function, or "
        "NAME=module:function.",
    )
    columns: str | None = Field(
        None,
        description="The columns of a table, --out FILE.csv, .tsv or .parquet: NAME,NAME or, beside the usual ones, "
        "+NAME,NAME.",
    )
    method: InverseMethod | None = Field(
        None,
        description="How samples are made to agree: mmps, dps, or, to inpaint, repaint or learned, for runs with "
        "--levels.known, of which it is the default; that of others is mmps.",
    )
    resamplings: int = Field(10, ge=1, description="repaint: how often each step is done.")
    noise_std: float = Field(
        0.0, ge=0, description="mmps, dps: how far the file may be off, in standard deviations of the data."
    )


def main(arguments: Sequence[str]) -> int:
    registry = plugins.installed()
    arguments, write = take_table(arguments, "write")
    arguments, output = take_output(arguments, registry)
    arguments, given = take_given(arguments, registry)
    chosen = read(Options, arguments, registry, "diffcore sample", "Draw samples from a run." + _writing(registry))
    options = chosen.options

    files = {"inpaint": options.inpaint, "link": options.link, "upscale": options.upscale, "from": options.from_}
    files["between"] = options.between
    tasks = [f"--{name}" for name, value in files.items() if value is not None] + [f"--{name}" for name in given]
    tasks += ["--given"] * bool(options.given)
    if len(tasks) > 1:
        raise UserError(f"{tasks[0]} and {tasks[1]} are two different tasks; give one")
    if options.mask is not None and options.inpaint is None and options.from_ is None:
        raise UserError("--mask belongs to --inpaint FILE or --from FILE, which are missing")
    if options.strength and options.from_ is None:
        raise UserError("--strength belongs to --from FILE, which is missing")
    strength = _strength(options.strength)
    for name in ("gap", "grow", "free", "attach", "unplaced"):
        given_alone = options.inpaint is None and (options.link is None or name == "unplaced")
        if getattr(options, name) not in (None, False) and given_alone:
            raise UserError(f"--{name} belongs to --inpaint FILE, which is missing")
    if options.grow is not None and options.size is not None:
        raise UserError("--grow and --size are two ways to say how many elements there are; give one")
    if output is not None and options.out is not None:
        raise UserError(f"--{output[0]} and --out both say where the samples go; give one")
    run = run_of(options, registry)
    prompts = prompts_of(options)
    n = options.n or _usual_number(options, prompts, bool(given or options.given))
    constraint, n = _constraint(run, options, strength, n, given)
    drawn: dict[str, Any] = {
        "prompt": one_or_all(prompts),
        "conditions": asked_for(options, [condition.name for condition in run.model.codec.conditions], n),
        "seed": options.seed,
        "size": options.size,
        "constraint": constraint,
        **sampling_of(chosen),
    }
    from diffcore.runs.choices import writing_of
    from diffcore.runs.measurements import grown

    if options.grow is not None:
        drawn["size"] = grown(constraint, options.grow)

    out = options.out
    if output is not None:
        out, write = Path(output[1]), {**write, **_options_of_output(output[0], run.model.modality, registry)}
    writing_of(run.model.modality, write)  # a mistake is told before anything is drawn
    for large in _stages(run, options):
        given = large.conditions_of(run.sample(n, **drawn))
        run, drawn = large, {"conditions": given, "seed": options.seed}
    chosen_by = {"keep": options.keep, "tries": options.tries, "rank": options.rank, "properties": options.property}
    written = run.sample_to(out, n, replace=options.replace, write=write, columns=options.columns, **chosen_by, **drawn)
    if written is not None:
        _tell(written)
    return 0


def _usual_number(options: Options, prompts: Sequence[str], entries: bool) -> int:
    """The number of samples without --n: one for each of the `entries` of a file, or for each line of --prompts."""
    if entries:
        return 1
    if options.prompts is not None:
        return len(prompts)
    return 8 if options.between is not None else 16


def _stages(run: "Run", options: Options) -> list["Run"]:
    """The runs of --then, each of which enlarges what the one before draws. Raises `UserError` if one does not."""
    from diffcore.api.stages import require_enlarges

    stages = [replace(run, path=path, checkpoint=None) for path in options.then]
    for small, large in pairwise([run, *stages]):
        require_enlarges(large, small.model, options.size if small is run else None)
    return stages


def _writing(registry: Registry) -> str:
    """The options of files that kinds of data have, for --help."""
    options = [
        f"\n--write.{{{','.join(provided.record.writing.model_fields)}}}  (files of {name})"
        for name, provided in registry.modalities.items()
        if provided.record.writing.model_fields
    ]
    outputs = [f"\n--{name} PLACE  (in place of --out, of {', '.join(of)})" for name, of in _outputs(registry).items()]
    givens = [f"\n--{name} FILE  ({text})" for name, text in _givens(registry).items()]
    return "".join([*options, *outputs, *givens])


def _outputs(registry: Registry) -> dict[str, list[str]]:
    """The flags that take the place of --out, with the kinds of data that have them."""
    found: dict[str, list[str]] = {}
    for kind, provided in registry.modalities.items():
        for name in provided.record.outputs:
            if name not in Options.model_fields:
                found.setdefault(name, []).append(kind)
    return found


def take_output(arguments: Sequence[str], registry: Registry) -> tuple[list[str], tuple[str, str] | None]:
    """The arguments without a flag that takes the place of --out, and its name and its value."""
    rest, given = list(arguments), []
    for name in _outputs(registry):
        rest, value = take(rest, name)
        given += [] if value is None else [(name, value)]
    if len(given) > 1:
        raise UserError(f"--{given[0][0]} and --{given[1][0]} both say where the samples go; give one")
    return rest, given[0] if given else None


def _options_of_output(name: str, modality: Modality, registry: Registry) -> Mapping[str, Any]:
    """The options of files for which `--name` is short. Raises `UserError` if this kind of data has no such flag."""
    if name not in modality.outputs:
        raise UserError(
            f"--{name} is an option of runs of {' and '.join(_outputs(registry)[name])}, and this is a run of "
            f"{modality.name}"
        )
    return modality.outputs[name]


def _tell(written: "Written") -> None:
    """Say where the samples are, and how they compare with what was requested."""
    earlier = f", {written.earlier} of them from an earlier call" if written.earlier else ""
    overview = ""
    if written.overview != written.out:
        which = "together" if written.shown == written.n else f"the first {written.shown} together"
        overview = f", {which} in {written.overview}"
    say(f"{written.n} samples: {written.out}{overview}{earlier}")
    for line in written.summary:
        say(as_flags(line))


def _strength(words: Sequence[str]) -> float | dict[str, float]:
    """The strength of --from: one number, or FIELD=NUMBER for some fields. Raises `UserError`."""
    try:
        if len(words) == 1 and "=" not in words[0]:
            return float(words[0])
        pairs = [word.split("=", 1) for word in words]
        return {name: float(value) for name, value in pairs} if pairs else 0.5
    except ValueError:
        raise UserError(
            f"--strength {' '.join(words)}: write a number from 0 to 1, or FIELD=NUMBER for some of the fields"
        ) from None


def take_given(arguments: Sequence[str], registry: Registry) -> tuple[list[str], dict[str, str]]:
    """The arguments without the flags of files that say what is known of samples, and their values by name."""
    rest, found = list(arguments), dict[str, str]()
    for name in _givens(registry):
        rest, value = take(rest, name)
        if value is not None:
            found[name] = value
    return rest, found


def _givens(registry: Registry) -> dict[str, str]:
    """The flags of files that say what is known of samples, with a sentence on each."""
    return {
        name: f"{text} ({kind})"
        for kind, provided in registry.modalities.items()
        for name, text in provided.record.givens.items()
        if name not in Options.model_fields
    }


def _constraint(
    run: "Run", options: Any, strength: float | dict[str, float], n: int, given: Mapping[str, str]
) -> tuple[Any, int]:
    """What the samples must agree with, from the files that the flags name, None if there are none; and their number.

    `n` is the number that is asked for: that of the samples, or for each entry of a file of several.
    """
    from diffcore.runs.measurements import given_by

    for name, path in given.items():
        return given_by(run.model, name, Path(path), n, options.method, options.noise_std, options.resamplings)
    if options.given:
        from diffcore.runs.joint import given_sides

        return given_sides(run.model, _sides(options.given), n)
    return _constraint_of_one(run, options, strength, n), n


def _sides(pairs: Sequence[str]) -> dict[str, str]:
    """The files of --given by the name of the side. Raises `UserError` for what is not SIDE=FILE."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, sign, path = pair.partition("=")
        if not (name and sign and path):
            raise UserError(f"--given {pair}: write it as SIDE=FILE")
        if name in found:
            raise UserError(f"--given {pair}: {name} is given twice")
        found[name] = path
    return found


def _constraint_of_one(run: "Run", options: Any, strength: float | dict[str, float], n: int) -> Any:
    """The constraint of a flag that names one file, or two; None if there is none."""
    from diffcore.runs.measurements import inpainting_of, upscaling_of
    from diffcore.runs.variations import between_of, variation_of

    if options.from_ is not None:
        return variation_of(
            run.model,
            options.from_,
            strength,
            options.mask,
            options.method,
            options.noise_std,
            options.resamplings,
        )
    if options.between is not None:
        first, second = options.between
        return between_of(run.model, first, second, n)

    if options.inpaint is not None or options.link is not None:
        return inpainting_of(
            run.model,
            options.inpaint or options.link,
            options.mask,
            options.method,
            options.noise_std,
            options.resamplings,
            options.gap,
            options.size,
            options.free,
            options.attach,
            options.link is not None,
            options.unplaced,
        )
    if options.upscale is not None:
        return upscaling_of(run.model, options.upscale, None, options.method, options.noise_std)
    return None


def prompts_of(options: Options) -> list[str]:
    """The prompts of the flags, or those in the lines of a file; empty if there are none."""
    if options.prompts is None:
        return [*options.prompt]
    if options.prompt:
        raise UserError("--prompt and --prompts are two ways to say the same; give one")
    return read_prompts(options.prompts)


MOST_PROMPTS = 64 * 2**20
"""Bytes of a file of prompts, at most."""


def read_prompts(path: Path) -> list[str]:
    """The lines of a file, without empty ones. Raises `UserError` if it is missing, not UTF-8, or has no lines."""
    if path.exists() and not path.is_file():
        raise UserError(f"--prompts {path} is not a file: give a file with a prompt in each line")
    try:
        content = read_regular(path.resolve(), MOST_PROMPTS)
    except FileNotFoundError:
        raise UserError(f"--prompts: no file {path}") from None
    lines = [line.strip() for line in utf8_lines(content, f"--prompts {path}")]
    if not (found := [line for line in lines if line]):
        raise UserError(f"--prompts {path}: the file has no prompts; write one in each line")
    return found


def one_or_all(prompts: Sequence[str]) -> str | list[str] | None:
    """The prompts as `Run.sample` takes them."""
    return None if not prompts else prompts[0] if len(prompts) == 1 else [*prompts]


def asked_for(options: Options, known: Sequence[str] = (), n: int | None = None) -> dict[str, Any]:
    """What the flags ask for, by name of condition: a value for all samples, or a list of one for each.

    The names of `known` conditions may contain `=` themselves.
    """
    label = tuple(f"label={value}" for value in options.label[:1])
    asked: dict[str, Any] = {}
    forms = {"condition": "key=value", "target": "key=2.5, or key=40..60", "label": "NAME or #INDEX"}
    for flag, pairs in (("condition", options.condition), ("target", options.target), ("label", label)):
        for pair in pairs:
            key = max((name for name in known if pair.startswith(f"{name}=")), key=len, default=pair.partition("=")[0])
            value = pair[len(key) + 1 :]
            if "=" not in pair:
                raise UserError(f"--{flag} {pair!r}: write it as {forms[flag]}")
            if key in asked:
                raise UserError(f"--{flag} {value if flag == 'label' else pair}: {key} is given twice")
            asked[key] = value
    if len(options.label) > 1:
        asked["label"] = [options.label[index % len(options.label)] for index in range(n or options.n or 16)]
    return asked
