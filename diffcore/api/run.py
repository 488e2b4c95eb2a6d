"""A trained run in Python: samples, metrics, fitted grids, likelihoods, and constraints on samples."""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from torch import Tensor

from diffcore.api.asked import Asked, Prompt
from diffcore.api.choosing import chosen
from diffcore.api.drawing import drawing_of
from diffcore.api.modes import in_own_modes
from diffcore.api.opened import OpenedRun
from diffcore.api.optimising import Optimised, Property, Request, optimise
from diffcore.api.showing import show_messages
from diffcore.api.stages import conditions_of
from diffcore.errors import UserError
from diffcore.names import Device, Divergence, InverseMethod
from diffcore.plugins.output import Metric
from diffcore.runs.folder import RunFolder
from diffcore.runs.joint import given_sides
from diffcore.runs.keeping import Wish
from diffcore.runs.kept_draws import place_of_tries
from diffcore.runs.measurements import Source, grown, inpainting_of, upscaling_of
from diffcore.runs.model import require_draws, require_flow
from diffcore.runs.output import Written, write_samples
from diffcore.runs.place import default_place
from diffcore.runs.samples import Samples
from diffcore.runs.sampling_config import GuidanceOptions, SamplingOptions
from diffcore.runs.scores import Functions, functions_of
from diffcore.runs.variations import between_of, variation_of
from diffcore.sampling.inverse.editing import Constraint
from diffcore.sampling.inverse.strength import Strength
from diffcore.states.spaces import Mask
from diffcore.system.distributed import from_leader, leads
from diffcore.system.progress import bar, counter

if TYPE_CHECKING:
    from diffcore.api.likelihoods import Judged
    from diffcore.runs.tuning import Tuning


@dataclass(frozen=True)
class Run(OpenedRun):
    """A trained run: a folder with a model, and everything that can be done with it.

    `checkpoint` is the name of one of its checkpoints, the newest by default; `device` the one that it was trained on
    by default. The model is loaded when it is first needed, with averaged weights. `data_at` are the places of its data
    if they have moved, by option of the data set: `{"root": PATH}`. With `trust`, a run of another user may read the
    files and download the data that its configuration names, and `resume` starts its loggers.
    """

    @in_own_modes
    def sample(
        self,
        n: int = 16,
        *,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        seed: int = 0,
        size: str | int | None = None,
        constraint: Constraint | None = None,
        keep: str = "",
        tries: int = 100,
        rank: str = "",
        properties: Functions = (),
        **options: Unpack[SamplingOptions],
    ) -> Samples:
        """Draw `n` samples. Sample i of a seed depends on the seed, on i and on its conditions alone.

        A grid that `tune` fitted is used where the number of steps, the checkpoint and the guidance are those that it
        was fitted to, and no solver, grid or schedule is given; what is used is logged.

        Args:
            n: How many.
            label: Short for `conditions={"label": ...}`: the name of a class, or `"#3"` for the class with index 3.
            prompt: Short for `conditions={"prompt": ...}`: a text, or several that the samples have in turn.
            conditions: What the samples shall be, by name of condition; without any, all there is in turn.
            seed: Decides the noise.
            size: How many elements a sample has, `9`, or `"7..9"` where that varies.
            constraint: What samples have to agree with; `inpaint` and `upscale` make the usual ones of files.
            keep: Conditions that all samples meet, `"qed>0.6, no PAINS, unique"`; samples that do not are drawn again.
                The names are those of `Samples.scores`.
            tries: How often each sample is drawn, at most.
            rank: What samples are sorted by: `"targets"`, how well requested numbers are met, `"high NAME"` or
                `"low NAME"`.
            properties: Python functions for `keep` and `rank`: `"module:function"`, `"NAME=module:function"`, or by
                name.
            **options: How to draw: `steps`, `solver`, `guidance` and the other fields of
                `diffcore.runs.sampling_config.SamplingOptions`.

        Raises:
            UserError: For conditions, sizes and options that do not exist or do not fit.
        """
        show_messages()
        drawing = drawing_of(self, n, label, conditions, seed, size, constraint, options, prompt)
        drawing = chosen(self, drawing, Wish(keep, tries, rank), functions_of(properties))
        with counter("sampling", 0 if drawing.selection else n) as after_batch:
            return drawing.draw_all(after_batch)

    def conditions_of(self, samples: Samples) -> dict[str, Any]:
        """The conditions with which this run enlarges samples of another run, for `sample` and `sample_to`.

        They are the samples themselves, and the conditions that both runs have. Raises `UserError` if this run does not
        enlarge, or not samples of this form.
        """
        return conditions_of(self, samples)

    @in_own_modes
    def sample_to(
        self,
        out: str | os.PathLike[str] | None = None,
        n: int = 16,
        *,
        replace: bool = False,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        seed: int = 0,
        size: str | int | None = None,
        constraint: Constraint | None = None,
        write: Mapping[str, Any] | None = None,
        keep: str = "",
        tries: int = 100,
        rank: str = "",
        properties: Functions = (),
        columns: str | Sequence[str] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Written | None:
        """Draw `n` samples and write them to files while they are drawn. The memory does not depend on `n`.

        What is drawn is kept if the call is interrupted, and the same call goes on from there, also with samples that
        are chosen or ranked: what these are chosen from is in a hidden folder beside `out` until all are written. With
        several processes, the first one writes the files, and the others return None.

        Args:
            out: A folder for one file per sample, or one file for all, whose extension the kind of data supports; by
                default `samples/seed-SEED` in the folder of the run, or the next such name without other samples.
            n: The number of samples.
            replace: Replace other samples in `out`.
            write: Options of the files, which depend on the kind of data, such as `{"bits": 24}` for sounds.
            columns: The columns of a table (`.csv`, `.tsv`, `.parquet`): names of `Samples.scores`, or, with a `+`
                before the first, these beside the usual ones.
            label, prompt, conditions, seed, size, constraint, keep, tries, rank, properties, **options: As for
                `sample`, where samples that are chosen or ranked are kept in memory until all are drawn;
                `diffcore.runs.measurements` makes the constraints of `inpaint` and `upscale`.

        Raises:
            UserError: As for `sample`, and if `out` contains anything but samples of the same recipe.
        """
        show_messages()
        drawing = drawing_of(self, n, label, conditions, seed, size, constraint, options, prompt, write)
        tried = place_of_tries(RunFolder(self.path).samples if out is None else Path(out))
        try:
            drawing = chosen(self, drawing, Wish(keep, tries, rank), functions_of(properties), columns, out, tried)
        except UserError:  # the same call would be refused again
            if leads():
                shutil.rmtree(tried, ignore_errors=True)
            raise
        place = from_leader(
            lambda: Path(out) if out is not None else default_place(RunFolder(self.path).samples, drawing)
        )
        try:
            with bar("sampling") as report:
                written = write_samples(
                    drawing, place, replace, lambda done, count: report(done / count, f"{done} of {count}")
                )
            if leads():
                shutil.rmtree(tried, ignore_errors=True)
            return written
        finally:
            if out is None and leads():
                with contextlib.suppress(OSError):  # it is not empty, unless no sample was drawn
                    place.rmdir()

    @in_own_modes
    def inpaint(
        self,
        source: Source,
        mask: Source | None = None,
        n: int = 16,
        *,
        method: InverseMethod | None = None,
        noise_std: float = 0.0,
        resamplings: int = 10,
        gap: str | None = None,
        grow: str | int | None = None,
        free: str | Sequence[int] | None = None,
        attach: str | Sequence[int] | None = None,
        link: bool = False,
        unplaced: bool = False,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        seed: int = 0,
        size: str | int | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Samples:
        """Draw `n` samples that agree with a file or an encoded sample where it is known.

        Args:
            source: A file of the run's kind of data, or an encoded sample `[1, ...]`.
            mask: A file in which white is to be filled in, or a state of booleans that is True there; without it the
                file itself must show what is missing, such as a set of which some elements are given.
            n: How many.
            method: `"learned"`, the default of models that have learned states of which a part is known, `"mmps"`, the
                default of others, `"dps"` or `"repaint"`.
            noise_std: For mmps and dps: how far the source may be off, in standard deviations of the data.
            resamplings: For repaint: how often each step is done.
            gap: The part of the file that is to be filled in, for data with an order: `"0.2..0.4"`, in seconds for
                sounds. Without it, samples go on where a file ends.
            grow: Where the number of elements varies, how many are added to those that are known: `3` or `"2..4"`.
            free: The numbers, from 1, of elements of the file that are not known: `"3,4,7"`.
            attach: Where elements are joined, as by bonds, the numbers of those that new elements may be joined to.
            link: For a file with several pieces of a set whose elements are joined: samples that are not in one piece
                are drawn again.
            unplaced: The place and the size of the file in the whole are not known: they are drawn, and the samples are
                in the frame of the file.
            label, prompt, conditions, seed, size, **options: As for `sample`. Where sizes vary, they are drawn so
                that all known elements exist.
        """
        require_draws(self.model, self.path)
        length = None if size is None else str(size)
        constraint = inpainting_of(
            self.model, source, mask, method, noise_std, resamplings, gap, length, free, attach, link, unplaced
        )
        if grow is not None:
            if size is not None:
                raise UserError("`grow` and `size` are two ways to say how many elements there are; give one")
            size = grown(constraint, grow)
        return self.sample(
            n,
            label=label,
            prompt=prompt,
            conditions=conditions,
            seed=seed,
            size=size,
            constraint=constraint,
            **options,
        )

    @in_own_modes
    def given(
        self,
        sides: Mapping[str, str | Path],
        n: int = 1,
        *,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        seed: int = 0,
        size: str | int | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Samples:
        """Draw the other side of joint states, given one: `n` samples for each entry of a file.

        Args:
            sides: Files by the name of the side that they hold, `{"left": "three.png"}`; the sides of a run are those
                of `self.model.codec.joint`.
            n: How many for each entry. All samples of an entry follow each other.
            label, prompt, conditions, seed, size, **options: As for `sample`; without conditions, none is given.

        Raises:
            UserError: For runs whose states are not joint, names that are not those of sides, and files that cannot be
                used.
        """
        require_draws(self.model, self.path)
        constraint, count = given_sides(self.model, sides, n)
        return self.sample(
            count,
            label=label,
            prompt=prompt,
            conditions=conditions,
            seed=seed,
            size=size,
            constraint=constraint,
            **options,
        )

    @in_own_modes
    def vary(
        self,
        source: Source | Samples,
        strength: Strength = 0.5,
        n: int = 16,
        *,
        mask: Source | None = None,
        method: InverseMethod | None = None,
        noise_std: float = 0.0,
        resamplings: int = 10,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        seed: int = 0,
        **options: Unpack[SamplingOptions],
    ) -> Samples:
        """Draw `n` variations of a sample: it gets noise, and is denoised again.

        The noise has sigma / alpha = tan(pi s / 2) at the strength s, whatever the schedule and the solver are. The
        levels of the time grid that are cleaner follow, so fewer steps are taken than from pure noise.

        Args:
            source: A file of the run's kind of data, an encoded sample `[1, ...]`, or `Samples` (one, or `n`).
            strength: From 0, which gives the sample back, to 1, which is free. A number for each field,
                `{"positions": 0.5}`, leaves the others as they are, and a state of numbers is for each entry
                (`diffcore.sampling.inverse.strength.varying`).
            n: How many.
            mask: A file in which white is changed by `strength`, or a state of booleans that is True there; the rest
                is kept exactly.
            method, noise_std, resamplings: As for `inpaint`, where a part is kept.
            label, prompt, conditions, seed, **options: As for `sample`; without conditions, none is given.

        Raises:
            UserError: For files of other data or sizes, and if nothing is left to be changed.
        """
        require_draws(self.model, self.path)
        constraint = variation_of(self.model, source, strength, mask, method, noise_std, resamplings)
        return self.sample(
            n, label=label, prompt=prompt, conditions=conditions, seed=seed, constraint=constraint, **options
        )

    @in_own_modes
    def between(
        self,
        first: Source | Samples,
        second: Source | Samples,
        n: int = 8,
        *,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        seed: int = 0,
        **options: Unpack[GuidanceOptions],
    ) -> Samples:
        """`n` samples that lead from one sample to another; the first and the last are these two.

        Both become noise along the probability flow, and noise on the sphere between the two follows the flow back
        (`diffcore.likelihood.interpolation.between`). The flow has its own steps, so there is no solver to choose.

        Args:
            first, second: Files, encoded samples `[1, ...]`, or `Samples` of one each.
            n: How many, with both ends.
            label, prompt, conditions: The conditions of the whole way; without any, none is given.
            seed: Decides the noise of the clean end of the schedule.
            **options: Guidance, as for `sample`.

        Raises:
            UserError: For files of other data or sizes, and for different numbers of elements.
        """
        require_flow(self.model, "`between`", self.path)
        constraint = between_of(self.model, first, second, n)
        return self.sample(
            n, label=label, prompt=prompt, conditions=conditions, seed=seed, constraint=constraint, **options
        )

    @in_own_modes
    def optimise(
        self,
        property: Property,
        *,
        rounds: int = 5,
        per_round: int = 200,
        n: int = 16,
        minimise: bool = False,
        keep: str = "",
        properties: Functions = (),
        start: Sequence[Source | Samples] = (),
        strengths: Sequence[float] = (),
        out: str | os.PathLike[str] | None = None,
        replace: bool = False,
        write: Mapping[str, Any] | None = None,
        columns: str | Sequence[str] | None = None,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        seed: int = 0,
        size: str | int | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Optimised:
        """Search for samples of a high value, in rounds; the value may be any function of a sample.

        The first round draws free samples. Those of the next rounds are mostly variations (`vary`) of the best samples
        so far, with strengths that the search chooses by their success (`diffcore.sampling.evolution`). The value is
        computed only of samples that meet `keep` and were not found before. With the same arguments the search finds
        the same, and with more `rounds` it goes on where it ended.

        Args:
            property: The name of a value, `"module:function"`, `"NAME=module:function"`, or a function.
            rounds, per_round: How many rounds, and how many samples each draws.
            n: How many of the best different samples are returned.
            minimise: Search for a low value.
            keep: Conditions that samples must meet, `"valid, sa<4"`, as for `sample`; with `start`, also of
                `similarity`, where samples of this kind of data can be compared.
            properties: Python functions for `keep`, as for `sample`.
            start: Files, encoded samples `[1, ...]` or `Samples` that the search starts from, in place of free samples.
            strengths: The strengths of variations, from 0 to 1, which is a free sample; by default several.
            out: Where the `n` samples are written, as for `sample_to`; a folder beside it, which ends in `.search`,
                has all samples that were judged, and a call that was interrupted goes on there.
            replace, write, columns: As for `sample_to`. A table also has the columns `value` and `round`.
            label, prompt, conditions, seed, size, **options: As for `sample`; without conditions, none is given.

        Raises:
            UserError: As for `sample_to` and `vary`, and if no sample has a value and passes `keep`.
        """
        show_messages()
        request = Request(property, rounds, per_round, n, minimise, keep, properties, start, strengths)
        return optimise(self, request, label, prompt, conditions, seed, size, options, out, replace, write, columns)

    @in_own_modes
    def upscale(
        self,
        source: Source,
        n: int = 16,
        *,
        factor: int | None = None,
        method: InverseMethod | None = None,
        noise_std: float = 0.0,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        seed: int = 0,
        **options: Unpack[SamplingOptions],
    ) -> Samples:
        """Draw `n` samples whose block means are a smaller file, or a smaller encoded state with its `factor`.

        `method` is `"mmps"` (the default) or `"dps"`; the other arguments are those of `inpaint` and `sample`.
        """
        require_draws(self.model, self.path)
        constraint = upscaling_of(self.model, source, factor, method, noise_std)
        return self.sample(
            n, label=label, prompt=prompt, conditions=conditions, seed=seed, constraint=constraint, **options
        )

    @in_own_modes
    def evaluate(
        self,
        n: int = 500,
        *,
        seed: int = 0,
        metrics: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
        show: Callable[[list[Metric]], None] = lambda metrics: None,
        failed: list[str] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[Metric]:
        """Metrics of `n` samples, or of `n` held-out examples if the task draws no samples.

        They are kept in metrics.json and the report.

        evaluations.json keeps the metrics of all evaluations, each with its recipe; those of an equal recipe are
        replaced. `show` is called with the metrics before they are written. If the run cannot be written to, this is
        logged before the work, and the metrics are not kept.

        `metrics` are more than those of the settings, by name or by name with their options. An evaluator or a metric
        that fails is logged and left out, and the warning is added to the list `failed`. Where several processes
        evaluate together, the first has the metrics and the others have none.
        """
        show_messages()
        from diffcore.api.evaluating import evaluate  # the metrics, which other uses of a run do without

        return evaluate(self, n, seed, metrics, show, failed, options)

    @in_own_modes
    def tune(
        self,
        steps: int,
        *,
        trajectories: int = 64,
        iterations: int = 150,
        seed: int = 0,
        show: Callable[["Tuning"], None] = lambda found: None,
        **options: Unpack[GuidanceOptions],
    ) -> "Tuning":
        """Fit `steps` levels and a method to this run's own flow, and keep them for samples of as many steps.

        Nothing is kept where the run's own way of drawing is as good. `trajectories` of the model are followed to fit
        to, in `iterations` steps of Adam. `show` is called with the result before it is written. Raises `OSError`
        before the work if the run cannot be written to.
        """
        show_messages()
        from diffcore.api.fitting import tune

        return tune(self, steps, trajectories, iterations, seed, show, options)

    @in_own_modes
    def log_likelihood(
        self,
        source: "Judged",
        *,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        divergence: Divergence = "exact",
        probes: int = 1,
        steps: int | None = None,
        seed: int = 0,
        given: str | Collection[str] = (),
        mask: Mask = None,
    ) -> Tensor:
        """log p(x0) of each sample by the probability flow, `[B]` float64, in nats.

        It is the density of the encoded state, per unit of volume of its space. `source` are samples of a run, encoded
        examples (`diffcore.runs.coding.encode(run.model, run.data.held_out)`), encoded states `[B, ...]`, or files.
        `conditions` are what the samples are given; without any, those of samples and of encoded examples, else none.
        `mask` `[B, N]` says which elements of encoded states exist; that of samples and of encoded examples is known.
        The other arguments are those of `diffcore.likelihood.flow.log_likelihood`.

        Raises `UserError` for files that cannot be read, for tensors that are no encoded states, and if the number of
        elements varies and `mask` is missing.
        """
        from diffcore.api.likelihoods import flow_likelihood

        asked = {"label": label, "prompt": prompt, "conditions": conditions}
        return flow_likelihood(
            self.model,
            self.path,
            source,
            asked,
            seed,
            mask,
            divergence=divergence,
            probes=probes,
            steps=steps,
            given=given,
        )

    @in_own_modes
    def bits_per_dimension(
        self,
        source: "Judged",
        *,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        levels: int = 500,
        seed: int = 0,
        mask: Mask = None,
    ) -> Tensor:
        """An upper bound of -log2 p(x0) / D of each sample, `[B]` float64: bits for each of its D discrete values.

        It is the variational bound of data with discrete values, such as bytes, for a chain of `levels`
        levels that are evenly spaced in log-SNR (`diffcore.likelihood.bound.variational_bound`). States are rounded to
        the nearest value. The other arguments are those of `log_likelihood`.

        The standard deviation of the noise at the clean end of the schedule, e^(-lambda / 2), should be at most a fifth
        of the difference of neighbouring values: even an exact model needs 0.02 bits then, and 1.4 bits where the two
        are equal. Runs that are trained for the look of samples have large bounds; see
        `diffcore.process.schedules.Uniform` for others.

        Raises `UserError` for kinds of data without discrete values, and as `log_likelihood` does.
        """
        from diffcore.api.likelihoods import bits

        asked = {"label": label, "prompt": prompt, "conditions": conditions}
        return bits(self.model, self.path, source, asked, seed, mask, levels)

    def distill(
        self,
        steps: int = 4,
        *,
        guidance: float | None = None,
        out: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> "Run":
        """Train a student, which draws in a few steps what this run draws in many, and return it.

        The student is a run of the task `distill` (`diffcore.tasks.distill`). It has the data, the network and the
        schedule of this run, begins with its weights, and is trained for a seventh of its steps. It draws by DDIM, one
        step for each of `steps` segments of the schedule's time.

        Args:
            steps: In how many steps the student draws.
            guidance: The weight of classifier-free guidance with which the teacher draws, and which the student learns;
                by default that of the run's settings. The student itself then draws without guidance.
            out: The folder of the student; by default the next free `runs/<modality>/<preset>-<n>`.
            **settings: Other settings, as for `diffcore.train`: `train={"steps": 1000}`, `task={"path": 16}`.

        Raises:
            UserError: For a run that is no trained denoiser, and for values that do not fit.
        """
        show_messages()
        from diffcore.api.distilling import student_settings
        from diffcore.api.training import start

        chosen = student_settings(self.registry, self.path, steps, guidance, self.checkpoint, settings)
        student, _ = start(chosen, None if out is None else Path(out), self.registry)
        return Run(student.path.absolute(), None, self.device, self.registry)

    def resume(self, train: Mapping[str, Any] | None = None) -> "Run":
        """Go on training from the checkpoint, and return the run with what was learned.

        `train` are fields of the settings' `train` that shall differ: another end, `{"steps": 9000}`, or
        `on_divergence`. An unbroken run and one that was stopped and resumed give the same losses and weights.
        """
        show_messages()
        from diffcore.api.resuming import go_on  # the training loop, which other uses of a run do without

        changed = dict(train or {})
        if unknown := changed.keys() - RESUMABLE:
            raise UserError(
                f"`train.{sorted(unknown)[0]}` cannot change while a run goes on; {', '.join(sorted(RESUMABLE))} can"
            )
        go_on(self.path, self.registry, changed, self.device, self.checkpoint, self.data_at, self.trust)
        return Run(self.path, None, self.device, self.registry)


RESUMABLE = frozenset({"steps", "minutes", "on_divergence", "evaluate"})
"""Options of training that can change while a run goes on."""


def load(
    path: str | os.PathLike[str],
    *,
    checkpoint: str | None = None,
    device: Device | None = None,
    data: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Run:
    """The run in the folder `path`, from its newest checkpoint or the one of that name.

    If its data have moved, `data` names their place, `{"root": PATH}`; only metrics and further training read them.
    With `trust`, these may do what the configuration of another user's run says: read and download data, and start
    loggers.

    Raises `UserError` where there is no such run or checkpoint, or where it is damaged.
    """
    run = Run(Path(path).absolute(), checkpoint, device, data_at=dict(data or {}), trust=trust)
    _ = run.loaded
    return run
