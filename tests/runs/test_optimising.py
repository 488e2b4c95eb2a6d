"""Searches with samples whose values are known: rounds, interruptions, conditions and files."""

import csv
import logging
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffcore.errors import UserError
from diffcore.plugins.data import Encoded
from diffcore.process.schedules import Cosine
from diffcore.runs.drawing import Drawing
from diffcore.runs.keeping import terms_of
from diffcore.runs.optimising import Goal, optimised
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.runs.scores import Scoring
from diffcore.runs.search_folder import search_folder
from diffcore.sampling.inverse.editing import Constraint
from diffcore.sampling.solvers import ddpm
from diffcore.states.noise import Draws
from diffcore.states.spaces import Euclidean
from diffcore.testing.oracles import gaussian


class Gaussians(Drawing):
    """A drawing from N(0, I) in closed form, also of variations, without a network; it logs what it draws."""

    def draw(self, rows, numbers=None):
        if self.selection is not None:
            return super().draw(rows, numbers)
        self.model.log.extend(numbers)
        noise = Draws.of(self.seed, numbers).normal("prior", torch.zeros(len(rows), 2))
        start = self.constraint.start
        if start is None:
            return Encoded(noise, {}, None)
        gain = 1 / (1 + math.exp(-start.log_snr))  # alpha^2
        return Encoded(gain * start.values[list(rows)] + math.sqrt(1 - gain**2) * noise, {}, None)


@pytest.fixture
def drawing():
    codec = SimpleNamespace(decode=lambda state, mask: state, space=Euclidean((2,)), conditions=(), sizes=None)
    model = SimpleNamespace(codec=codec, modality=SimpleNamespace(name="pairs", scorer=None), log=[])
    return Gaussians(model, Path(), SamplingConfig(ddpm(), batch_size=16), {}, 40, constraint=Constraint())


def scoring(drawing, **functions):
    return Scoring(drawing.model, functions={"sum": lambda x: x.sum().item(), **functions})


GOAL = Goal("sum")


def values(found):
    return [each.score for each in found.candidates]


def test_the_mean_rises_along_the_direction_of_the_score(drawing, caplog):
    with caplog.at_level(logging.INFO):
        found = optimised(drawing, scoring(drawing), GOAL, 6, 4)
    assert len(found.candidates) == len(drawing.model.log) == len(set(drawing.model.log)) == 240
    assert found.rounds[-1].top > 1.5 * found.rounds[0].top > 0
    states = found.drawing.draw(range(4)).state
    assert states.sum(1).tolist() == pytest.approx([each.score for each in found.best])
    assert states.sum(1).tolist() == sorted(states.sum(1).tolist(), reverse=True)
    (direction,) = torch.nn.functional.normalize(states.mean(0, keepdim=True))
    assert (direction.sum() / math.sqrt(2)).item() > 0.9  # (1, 1) / sqrt 2 is the best one
    assert f"round 6 of 6: best {found.rounds[-1].best:.4g}" in caplog.text


def test_low_values_are_found_too(drawing):
    low = optimised(drawing, scoring(drawing), Goal("sum", minimise=True), 4, 2)
    assert low.rounds[-1].best < low.rounds[0].best < 0
    assert low.drawing.draw([0]).state.sum().item() == pytest.approx(-low.best[0].score)


def test_the_value_is_computed_of_samples_that_meet_the_conditions_only(drawing):
    asked = []

    def costly(x):
        asked.append(x)
        return x.sum()

    def right(x):
        return bool(x[0] > 0)

    goal = Goal("costly", terms=terms_of("right"))
    found = optimised(drawing, scoring(drawing, costly=costly, right=right), goal, 3, 4)
    assert all(x[0] > 0 for x in asked)
    assert len(asked) == sum(each.passes for each in found.candidates) == sum(each.passed for each in found.rounds)
    assert all(each.failed == 1 for each in found.candidates if not each.passes)


def test_samples_that_were_found_before_are_not_scored_again(drawing):
    asked = []
    made = scoring(drawing)

    def score(samples, names):
        asked.extend(x for x in samples if "sum" in names)
        return {name: [round(x.sum().item()) for x in samples] for name in names}

    scorer = SimpleNamespace(columns={}, more={}, identity="kind", require=lambda names: None, score=score)
    object.__setattr__(made, "scorer", scorer)
    found = optimised(drawing, made, GOAL, 3, 4)
    kinds = [each.identity for each in found.candidates]
    assert len(asked) == len(set(kinds))
    assert [each.score for each in found.candidates] == kinds  # those of equal ones are known
    assert len({each.identity for each in found.best}) == len(found.best) == 4
    assert sum(each.repeated for each in found.rounds) == len(kinds) - len(set(kinds))


def test_an_interrupted_search_goes_on_where_it_was(drawing, tmp_path):
    whole = optimised(drawing, scoring(drawing), GOAL, 4, 3)
    drawing.model.log.clear()
    done = []

    def interrupt(count):
        done.append(count)
        if len(done) == 9:
            raise KeyboardInterrupt

    recipe = {"task": "optimise"}
    with pytest.raises(KeyboardInterrupt), search_folder(tmp_path / "s", recipe) as folder:
        optimised(drawing, scoring(drawing), GOAL, 4, 3, folder=folder, after_batch=interrupt)
    before = len(drawing.model.log)
    assert 40 < before < 160
    with search_folder(tmp_path / "s", recipe) as folder:
        again = optimised(drawing, scoring(drawing), GOAL, 4, 3, folder=folder)
    assert len(drawing.model.log) == len(set(drawing.model.log)) == 160  # nothing is drawn twice
    assert again.candidates == whole.candidates
    assert [each.words(4, 3) for each in again.rounds] == [each.words(4, 3) for each in whole.rounds]
    assert torch.equal(again.drawing.draw(range(3)).state, whole.drawing.draw(range(3)).state)
    with search_folder(tmp_path / "s", recipe) as folder:  # more rounds go on there
        more = optimised(drawing, scoring(drawing), GOAL, 5, 3, folder=folder)
    assert more.candidates[:160] == whole.candidates
    assert len(drawing.model.log) == 200
    with (tmp_path / "s" / "rounds.csv").open() as file:
        assert [row["number"] for row in csv.DictReader(file)] == ["1", "2", "3", "4", "5"]


def test_batches_do_not_change_what_is_found(drawing):
    small = replace(drawing, config=SamplingConfig(ddpm(), batch_size=3))
    each = [values(optimised(some, scoring(some), GOAL, 3, 2)) for some in (small, drawing)]
    assert each[0] == pytest.approx(each[1])


def test_a_search_starts_from_what_is_given(drawing):
    leads = Encoded(torch.tensor([[4.0, 4.0], [-9.0, 9.0]]), {}, None)
    found = optimised(drawing, scoring(drawing), GOAL, 2, 3, strengths=(0.2,), leads=leads)
    assert [each.round for each in found.candidates[:3]] == [0, 0, 1]
    assert {each.parent for each in found.candidates if each.round == 1} == {0, 1}  # both, in turn
    assert found.best[0].score >= 8
    free = optimised(drawing, scoring(drawing), GOAL, 1, 3, leads=leads)
    assert all(each.strength < 1 for each in free.candidates)


class Network:
    """The denoiser of N(0, I) in place of a network."""

    def __call__(self, x, level, conditions=None, mask=None):
        return gaussian(0.0, 1.0)(x, level)

    def eval(self):
        pass


def test_particles_raise_the_values_of_variations(drawing):
    """With children of one strength, the mean of a round is that of its parents times a^2, and higher with particles.

    The others of a group see the same parent, so particles only choose between what their noise makes of it.
    """
    fields = {"denoiser": Network(), "schedule": Cosine(), "device": torch.device("cpu")}
    model = SimpleNamespace(**vars(drawing.model), **fields)
    real = Drawing(model, Path(), SamplingConfig(ddpm(1.0), 10, batch_size=70), {}, 240, constraint=Constraint())
    found = {}
    for particles in (1, 8):
        each = replace(real, config=replace(real.config, particles=particles))
        found[particles] = optimised(each, scoring(each), GOAL, 2, 4, strengths=(0.5,))
        later = [each for each in found[particles].candidates if each.round == 2]
        groups = [later[i : i + particles] for i in range(0, 240, particles)]
        assert all(len({each.parent for each in group}) == 1 for group in groups)
        assert len({each.score for each in found[particles].candidates}) == 480
    assert found[1].candidates[:240] == found[8].candidates[:240]  # free samples are those without particles
    parents = 2.06 * math.sqrt(2)
    assert found[1].rounds[1].mean == pytest.approx(parents / 2, abs=0.25)
    assert found[8].rounds[1].mean > parents / 2 + 0.35


def test_another_search_in_the_folder_is_refused_or_replaced(drawing, tmp_path):
    with search_folder(tmp_path / "s", {"seed": 0}) as folder:
        optimised(drawing, scoring(drawing), GOAL, 1, 1, folder=folder)
        with pytest.raises(UserError, match="another command is searching"), search_folder(tmp_path / "s", {"seed": 0}):
            pass
    with pytest.raises(UserError, match="it differs in seed"), search_folder(tmp_path / "s", {"seed": 1}):
        pass
    with search_folder(tmp_path / "s", {"seed": 1}, replace=True) as folder:
        assert not [*folder.read()]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not a folder of a search"), search_folder(tmp_path / "other", {}):
        pass
    assert [each.name for each in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_a_damaged_table_is_told(drawing, tmp_path):
    with search_folder(tmp_path / "s", {}) as folder:
        optimised(drawing, scoring(drawing), GOAL, 1, 1, folder=folder)
        folder.candidates.write_text(folder.candidates.read_text().replace("1.0", "one"))
        with pytest.raises(UserError, match=r"candidates.csv is damaged: delete .*, and the search begins again"):
            [*folder.read()]


def test_what_cannot_be_searched_for_is_refused(drawing):
    with pytest.raises(UserError, match="no value is called 'summ'"):
        optimised(drawing, scoring(drawing), Goal("summ"), 1, 1)
    with pytest.raises(UserError, match="none of 40 samples has a value of 'sum' and passes `keep`"):
        optimised(drawing, scoring(drawing), Goal("sum", terms=terms_of("sum>1000")), 1, 1)
    with pytest.raises(UserError, match="the value of a sample is the text 'high'"):
        optimised(drawing, scoring(drawing, word=lambda x: "high"), Goal("word"), 1, 1)
    assert len(drawing.model.log) == 40 + 16  # a wrong name is told before anything is drawn, a text at once
