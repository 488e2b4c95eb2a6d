import os
import signal
import subprocess
import sys
import time

import pytest

from diffcore_molecule.timeout_pool import Failed, Timeout, map_each, timeout_map


def work(item):
    """Squares numbers; strings make it misbehave."""
    if item == "hang":
        while True:  # like a loop in C++, which no exception can end
            pass
    if item == "hang for good":
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        time.sleep(1000)
    if item == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "raise":
        raise ValueError("the reason\nand more")
    if item == "take all memory":
        return len(bytearray(5 * 2**30))
    if item == "unpicklable":
        return lambda: None
    if item == "who":
        return os.getpid()
    return item**2


def test_results_are_in_order_and_failures_affect_single_items():
    items = [1, "hang", 2, "die", 3, "raise", "hang for good", 4, "unpicklable", 5, None, "take all memory"]
    results = list(timeout_map(work, items, seconds=1, workers=2))
    assert [r for r in results if isinstance(r, int)] == [1, 4, 9, 16, 25]
    assert results[1] == results[6] == Timeout(1)
    assert results[3] == Failed(f"its worker process died (exit code {-signal.SIGSEGV})")
    assert results[5] == Failed("the reason")
    assert isinstance(results[8], Failed)
    assert str(results[1]) == "took longer than 1 s"
    assert str(results[10]).startswith("an unexpected error, TypeError: unsupported operand")
    assert results[11] == Failed("needs more than 4 GiB of memory")


def work_each(items):
    return [work(item) for item in items]


def test_a_portion_that_fails_is_tried_item_by_item():
    portions = [[1, 2], [3, "die", 4], ["raise"], [5, "raise"]]
    results = dict(map_each(work_each, portions, seconds=5))
    assert [results[k] for k in range(1, 6)] == [1, 4, 9, 16, 25]
    assert results["raise"] == Failed("the reason")
    assert str(results["die"]).startswith("its worker process died")


def test_one_worker_serves_many_items_and_items_are_taken_as_needed():
    taken = []

    def items():
        for _ in range(10_000):
            taken.append(1)
            yield "who"

    results = timeout_map(work, items(), seconds=5, workers=1)
    pids = {next(results) for _ in range(20)}
    assert len(pids) == 1
    assert len(taken) < 200
    (pid,) = pids
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_no_items_and_wrong_limits():
    assert list(timeout_map(work, [], seconds=1)) == []
    with pytest.raises(ValueError, match="positive time"):
        next(timeout_map(work, [1], seconds=0))


def test_a_script_without_a_guard_is_not_run_again(tmp_path):
    """A spawned process runs the script of its parent, unless it is hidden."""
    script = tmp_path / "script.py"
    script.write_text(
        "import operator\n"
        "from diffcore_molecule.timeout_pool import timeout_map\n"
        "print('once')\n"
        "print(list(timeout_map(operator.neg, [1, 2], seconds=60, workers=2)))\n"
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, script], env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert done.stdout.split(b"\n")[:2] == [b"once", b"[-1, -2]"], done.stderr
