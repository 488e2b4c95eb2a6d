"""Which process has stopped answering, and who says so."""

import logging

import torch.distributed as dist

from diffcore.system import heartbeat
from diffcore.system.heartbeat import SILENCE, Watch, heartbeats

NAMES = ["zero", "one", "two"]


def told(watch, *readings):
    return [message.split(",")[0] for now, counters in readings for message in watch.read(counters, now)]


def test_a_silent_process_is_named_once_by_the_first_that_is_not_silent():
    readings = [(0, [1, 1, 1]), (30, [2, 1, 2]), (SILENCE, [3, 1, 3]), (SILENCE + 10, [4, 1, 4])]
    assert told(Watch(0, NAMES), *readings) == ["one has not answered for 60 seconds"]
    assert told(Watch(2, NAMES), *readings) == []


def test_another_speaks_where_the_first_is_silent():
    readings = [(0, [5, 1, 1]), (SILENCE, [5, 2, 2])]
    assert told(Watch(1, NAMES), *readings) == ["zero has not answered for 60 seconds"]
    assert told(Watch(2, NAMES), *readings) == []


def test_a_process_that_comes_back_is_reported():
    readings = [(0, [1, 1, 1]), (SILENCE, [2, 1, 2]), (SILENCE + 5, [3, 2, 3]), (2 * SILENCE, [4, 3, 4])]
    assert told(Watch(0, NAMES), *readings) == ["one has not answered for 60 seconds", "one answers again"]


def test_a_process_that_was_frozen_itself_blames_nobody():
    """Its own clock jumped, and all counters have moved on since."""
    assert told(Watch(0, NAMES), (0, [1, 1, 1]), (1000, [1, 80, 80])) == []


def test_heartbeats_are_counted_in_the_store_and_silence_is_logged(monkeypatch, caplog):
    store = dist.HashStore()
    store.set("diffcore name 1", "process 1 (pid 7 on there)")
    times = iter(range(0, 100_000, 40))
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.001)
    with caplog.at_level(logging.WARNING), heartbeats(store, 0, 2):
        while "process 1" not in caplog.text:
            assert store.add("diffcore heartbeat 0", 0) < 10_000
    assert "process 1 (pid 7 on there) has not answered for 80 seconds" in caplog.text
