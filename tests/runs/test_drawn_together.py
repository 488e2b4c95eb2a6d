"""Several processes draw samples and evaluate: what is drawn is kept as they go, and an interrupted call goes on.

The samples are those of a call that was not interrupted, in every bit.
"""

import shutil

import pytest
import torch

from diffcore import cli
from diffcore.evaluation.evaluate import read_metrics
from diffcore.runs import generation
from diffcore.runs.drawing import Drawing
from diffcore.runs.folder import RunFolder
from diffcore.runs.kept_states import joined_files, kept_files
from diffcore.runs.place import Place
from diffcore.states.state import fields
from diffcore.system.distributed import leads
from tests.support.forked import forked, needs_forks
from tests.support.several import registry
from tests.support.toy import put_in_place

N, BATCH = 41, 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, registry())
        path = tmp_path_factory.mktemp("drawn") / "run"
        words = ["train", "--modality", "toy", "--train.steps", "3", "--train.evaluate", "0", "--sample.steps", "4"]
        assert cli.main([*words, "--out", str(path)]) == 0
        yield path


def sample(run, out, batch=BATCH):
    """Draw, and leave the states, which are else deleted at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffcore.runs.output.shutil.rmtree", lambda *arguments, **options: None)
        words = ["sample", str(run), "--n", str(N), "--batch-size", str(batch), "--out", str(out)]
        assert cli._run(words) == 0


def states_of(out):
    files = kept_files(Place(out, False).parts)
    assert [row for rows in files for row in rows] == list(range(N))
    return torch.cat([field.flatten(1) for _, field in sorted(fields(joined_files(files).state).items())], 1)


class Stopped:
    """A function that is interrupted when it is called the k-th time; the numbers of the samples of its calls."""

    def __init__(self, function, at):
        self.function, self.at, self.calls = function, at, []

    def __call__(self, *arguments, **options):
        if len(self.calls) == self.at:
            raise KeyboardInterrupt
        self.calls.append(arguments)
        return self.function(*arguments, **options)


def interrupted(target, name, at, do):
    """Do something that is interrupted in all processes when `target.name` is called the k-th time there."""
    stopped = Stopped(getattr(target, name), at)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, lambda *arguments, **options: stopped(*arguments, **options))
        with pytest.raises(KeyboardInterrupt):
            do()


@needs_forks
@pytest.mark.parametrize("count", [1, 2])
def test_interrupted_samples_are_those_of_an_uninterrupted_call(run, tmp_path, count):
    together = (lambda do: do()) if count == 1 else (lambda do: forked(count, tmp_path / "said", do))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    together(lambda: sample(run, whole))
    together(lambda: interrupted(Drawing, "draw_parts", 2, lambda: sample(run, cut)))
    there = kept_files(Place(cut, False).parts)
    assert sum(map(len, there)) == 2 * count * BATCH
    next(cut.glob("0003*")).unlink()  # all of its batch is drawn again, for the same bits
    drawn = []

    def go_on():
        def draw(self, parts):
            drawn.extend(parts)
            return draw_parts(self, parts)

        draw_parts = Drawing.draw_parts
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Drawing, "draw_parts", draw)
            sample(run, cut)
        rows = [row for part in drawn for row in part]
        assert rows == [*range(BATCH), *range(2 * count * BATCH, N)]

    together(go_on)
    assert torch.equal(states_of(cut), states_of(whole))
    first, second = (sorted(path for path in out.iterdir() if path.is_file()) for out in (cut, whole))
    assert [path.name for path in first] == [path.name for path in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    assert len(first) == N + 1


def evaluated(run):
    assert cli._run(["evaluate", str(run), "--n", str(N), "--batch-size", str(BATCH)]) == 0


def figures(run):
    return {each.name: each.value for each in read_metrics(RunFolder(run)) if each.name != "samples_per_second"}


@needs_forks
def test_an_interrupted_evaluation_goes_on(run, tmp_path):
    def together(do):
        forked(2, tmp_path / "said", do)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for copy in (whole, cut):
        shutil.copytree(run, copy)
    together(lambda: evaluated(whole))
    stop_at = 2

    def interrupt():
        made = generation.batches_of

        def batches_of(*arguments, **options):
            return Stopped(made(*arguments, **options), stop_at)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generation, "batches_of", batches_of)
            with pytest.raises(KeyboardInterrupt):
                evaluated(cut)

    together(interrupt)
    kept = sorted((cut / ".evaluating").rglob("*.safetensors"))
    assert len(kept) == 2 * stop_at
    kept[0].write_bytes(kept[0].read_bytes()[:-4])  # as after a power failure

    def go_on():
        drawn = []
        made = generation.batches_of

        def batches_of(*arguments, **options):
            draw = made(*arguments, **options)

            def counted(indices, *rest):
                drawn.extend(indices)
                return draw(indices, *rest)

            return counted

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generation, "batches_of", batches_of)
            evaluated(cut)
        if leads():
            assert drawn[:BATCH] == [*range(BATCH)]
            assert set(range(BATCH, 2 * BATCH)).isdisjoint(drawn[: N // 2 - BATCH])
        else:
            assert drawn == [*range(N // 2 + 2 * BATCH, N)]

    together(go_on)
    assert figures(cut) == figures(whole)
    assert len(figures(cut)) == 2
    assert not (cut / ".evaluating").exists()


def far(sample):
    return float(torch.as_tensor(sample).norm())


@needs_forks
def test_interrupted_samples_that_are_chosen_are_those_of_an_uninterrupted_call(run, tmp_path):
    def together(do):
        forked(2, tmp_path / "said", do)

    wish = ["--keep", "far>0.9", "--rank", "high far", "--property", f"far={__name__}:far", "--tries", "3"]

    def choose(out, calls):
        """Draw, and write how many batches of noise were drawn to a file."""
        made, seen = Drawing.draw, []

        def draw(self, rows, numbers=None):
            seen.append(numbers)
            return made(self, rows, numbers)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Drawing, "draw", draw)
            words = ["sample", str(run), "--n", str(N), "--batch-size", "4", "--out", str(tmp_path / out), *wish]
            assert cli._run(words) == 0
        if leads():
            (tmp_path / calls).write_text(str(len(seen)))

    together(lambda: choose("whole.csv", "all"))
    together(lambda: interrupted(Drawing, "draw_parts", 3, lambda: choose("cut.csv", "none")))
    assert len(list((tmp_path / ".cut.csv.choosing").rglob("*.safetensors"))) == 3
    together(lambda: choose("cut.csv", "rest"))
    assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert len((tmp_path / "cut.csv").read_text().splitlines()) > 10
    assert int((tmp_path / "rest").read_text()) == int((tmp_path / "all").read_text()) - 3 > 3
    assert not list(tmp_path.glob(".*"))
