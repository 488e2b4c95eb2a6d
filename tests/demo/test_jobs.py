import threading
import time
from pathlib import Path

import pytest

from diffcore.demo.jobs import Job, Jobs
from diffcore.demo.limits import Limits
from diffcore.demo.visitors import Visitor
from diffcore.demo.wanted import Wanted
from diffcore.errors import UserError


def visitor(name="one", limits=None):
    return Visitor(name, Path("/nowhere"), limits or Limits())


def until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def gate():
    """Work that waits at each job until it is let through."""

    class Gate:
        def __init__(self):
            self.served, self.go = [], threading.Event()

        def __call__(self, job: Job) -> str:
            self.served.append(job)
            while not self.go.is_set():
                job.show([], 0.5)
                time.sleep(0.002)
            if job.wanted.seed == 1:
                raise UserError("`steps` 0: take at least one")
            if job.wanted.seed == 2:
                raise ZeroDivisionError("<secret>")
            return f"result {job.wanted.seed}"

    gate = Gate()
    yield gate
    gate.go.set()


def test_jobs_are_served_in_order_and_say_how_they_end(gate):
    jobs, first, second = Jobs(gate, Limits()), visitor("one"), visitor("two")
    asked = [jobs.add(who, Wanted(run=0, seed=seed)) for seed, who in enumerate([first, second, first])]
    until(lambda: asked[0].state == "running")
    assert [jobs.ahead(job) for job in asked] == [0, 1, 2]
    gate.go.set()
    until(lambda: all(job.ended for job in asked))
    assert gate.served == asked
    assert [job.state for job in asked] == ["done", "failed", "failed"]
    assert asked[0].result == "result 0"
    assert asked[1].message == "steps 0: take at least one"
    assert "secret" not in asked[2].message  # what failed in the program is for the terminal
    jobs.close()


def test_a_visitor_sees_only_own_jobs(gate):
    jobs, owner = Jobs(gate, Limits()), visitor("one")
    job = jobs.add(owner, Wanted(run=0))
    assert jobs.of(owner, job.name) is job
    with pytest.raises(UserError, match="no longer known"):
        jobs.of(visitor("two"), job.name)
    jobs.close()


def test_the_queue_is_bounded_for_one_and_for_all(gate):
    limits = Limits(waiting=3, waiting_of_one=2)
    jobs, one = Jobs(gate, limits), visitor("one")
    for _ in range(2):
        jobs.add(one, Wanted(run=0))
    with pytest.raises(UserError, match="too many requests"):
        jobs.add(one, Wanted(run=0))
    jobs.add(visitor("two"), Wanted(run=0))
    with pytest.raises(UserError, match="too many requests"):
        jobs.add(visitor("three"), Wanted(run=0))
    jobs.close()


def test_a_cancelled_job_ends_at_its_next_step_and_a_waiting_one_at_once(gate):
    jobs, one = Jobs(gate, Limits()), visitor()
    running, waiting = (jobs.add(one, Wanted(run=0, seed=seed)) for seed in range(2))
    until(lambda: running.state == "running")
    jobs.cancel(waiting)
    assert waiting.state == "cancelled"
    jobs.cancel(running)
    until(lambda: running.state == "cancelled")
    assert gate.served == [running]
    jobs.close()


def test_nothing_is_drawn_for_a_visitor_who_was_forgotten_in_the_queue(gate):
    jobs, one, two = Jobs(gate, Limits()), visitor("one"), visitor("two")
    first, second = jobs.add(one, Wanted(run=0)), jobs.add(two, Wanted(run=0))
    until(lambda: first.state == "running")
    two.forget()
    gate.go.set()
    until(lambda: second.ended)
    assert (gate.served, second.state) == ([first], "cancelled")
    jobs.close()


def test_closing_ends_everything(gate):
    jobs, one = Jobs(gate, Limits()), visitor()
    asked = [jobs.add(one, Wanted(run=0)) for _ in range(3)]
    until(lambda: asked[0].state == "running")
    jobs.close()
    assert [job.state for job in asked] == ["cancelled"] * 3
    with pytest.raises(UserError, match="too many"):
        jobs.add(one, Wanted(run=0))
