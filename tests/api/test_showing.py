"""Work in Python is shown on standard error, unless the program configures logging."""

import logging

import pytest

from diffcore.api.showing import show_messages


@pytest.fixture
def bare():
    """The logger of diffcore, whose level and handlers are restored."""
    logger = logging.getLogger("diffcore")
    level, handlers = logger.level, list(logger.handlers)
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers


def unconfigured(monkeypatch, bare):
    """Logging that nobody has configured: within a test, since pytest adds handlers before it."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    bare.setLevel(logging.NOTSET)
    bare.handlers.clear()


def test_messages_are_shown_once(bare, monkeypatch, capsys):
    unconfigured(monkeypatch, bare)
    show_messages()
    show_messages()
    logging.getLogger("diffcore.api.session").info("step 1")
    assert capsys.readouterr().err == "step 1\n"


CONFIGURED = {
    "a handler of the root logger": lambda logger: logging.getLogger().addHandler(logging.NullHandler()),
    "a handler": lambda logger: logger.addHandler(logging.NullHandler()),
    "a level": lambda logger: logger.setLevel(logging.WARNING),
}


@pytest.mark.parametrize("how", CONFIGURED)
def test_a_program_that_configures_logging_decides(bare, monkeypatch, how):
    unconfigured(monkeypatch, bare)
    CONFIGURED[how](bare)
    level, handlers = bare.level, list(bare.handlers)
    show_messages()
    assert (bare.level, bare.handlers) == (level, handlers)


def test_the_first_of_several_processes_shows_messages(bare, monkeypatch):
    unconfigured(monkeypatch, bare)
    monkeypatch.setenv("RANK", "1")
    show_messages()
    assert not bare.handlers
