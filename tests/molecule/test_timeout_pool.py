import os
import signal
import subprocess
import sys
import time

import pytest

from diffcore_molecule.timeout_pool import Failed, Timeout, limited_map


def work(item):
    """Squares numbers; other items are orders to misbehave."""
    if item == "hang":
        while True:  # a pure loop, as C++ would: no exception reaches it
            pass
    if item == "hang for good":
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        time.sleep(1000)
    if item == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "raise":
        raise ValueError("said so\nand more")
    if item == "unpicklable":
        return lambda: None
    if item == "who":
        return os.getpid()
    return item**2


def test_results_come_in_order_and_trouble_is_confined():
    items = [1, "hang", 2, "die", 3, "raise", "hang for good", 4, "unpicklable", 5]
    results = list(limited_map(work, items, seconds=1, workers=2))
    assert [r for r in results if isinstance(r, int)] == [1, 4, 9, 16, 25]
    assert results[1] == results[6] == Timeout(1)
    assert results[3] == Failed(f"the process that worked on it died (exit code {-signal.SIGSEGV})")
    assert results[5] == Failed("said so")
    assert isinstance(results[8], Failed)
    assert str(results[1]) == "took longer than 1 s"


def test_one_worker_serves_many_items_and_items_are_taken_as_needed():
    taken = []

    def items():
        for _ in range(10_000):
            taken.append(1)
            yield "who"

    results = limited_map(work, items(), seconds=5, workers=1)
    pids = {next(results) for _ in range(20)}
    assert len(pids) == 1
    assert len(taken) < 200
    (pid,) = pids
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_no_items_and_wrong_limits():
    assert list(limited_map(work, [], seconds=1)) == []
    with pytest.raises(ValueError, match="positive time"):
        next(limited_map(work, [1], seconds=0))


def test_a_script_without_a_guard_is_not_run_again(tmp_path):
    """A spawned process runs the script that it comes from, unless it is hidden."""
    script = tmp_path / "script.py"
    script.write_text(
        "import operator\n"
        "from diffcore_molecule.timeout_pool import limited_map\n"
        "print('once')\n"
        "print(list(limited_map(operator.neg, [1, 2], seconds=60, workers=2)))\n"
    )
    path = os.pathsep.join(sys.path)
    said = subprocess.run([sys.executable, script], env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert said.stdout.split(b"\n")[:2] == [b"once", b"[-1, -2]"], said.stderr
