"""The checks as a pytest class, for the tests of a plugin."""

from collections.abc import Callable
from typing import Any, ClassVar

from diffcore.plugins.records import Modality
from diffcore.plugins.registry import installed
from diffcore.testing.checks import CHECKS, Check
from diffcore.testing.conformance import plugin_under_test, run_check
from diffcore.testing.parts import CONTRACTS, PartUnderTest, part_under_test
from diffcore.testing.plugin import PluginUnderTest


class ModalityTests:
    """A pytest class with one test for each check of `diffcore check-plugin`. The author of a plugin writes

        class TestMine(ModalityTests):
            modality = "mine"

    `modality` is the name of an installed modality, a `Modality` record, or a pytest fixture that returns either.
    `denoiser` names the denoiser to test; if it is None, the denoiser of the preset `default` is tested. A check that
    cannot pass yet is declared in `Contract.expected_failures`, with the reason.

    Raises `TypeError` if a subclass overrides or deletes the test of a check, unless its own test is marked `xfail`
    with a reason.
    """

    modality: ClassVar[Any] = None
    denoiser: ClassVar[str | None] = None
    _plugin: ClassVar[PluginUnderTest | None] = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._plugin = None
        for check in CHECKS:
            name = f"test_{check.name}"
            test = getattr(cls, name, None)
            if test is not getattr(ModalityTests, name) and not _is_expected_to_fail(test):
                raise TypeError(
                    f"{cls.__name__}.{name} replaces a check of plugins; mark it pytest.mark.xfail(reason=...), or "
                    f"declare {check.name!r} in the expected_failures of the modality's contract"
                )

    @classmethod
    def plugin_under_test(cls, request: Any) -> PluginUnderTest:
        """The plugin under test, built once for all tests of the class. `request` is pytest's fixture."""
        if cls._plugin is None:
            modality = cls.modality
            if not isinstance(modality, str | Modality):
                modality = request.getfixturevalue("modality")
            cls._plugin = plugin_under_test(modality, cls.denoiser)
        return cls._plugin


class PartTests:
    """A pytest class with one test for each check of a solver, a schedule or another part:

        class TestMine(PartTests):
            kind = "solver"
            name = "mine"

    `kind` is "solver", "schedule", "guidance", "metric", "logger", "task" or "text-encoder", and `name` is that of the
    installed part.
    `serves` names the kind of data with which guidance, a metric or a task is tried; without it, the first that is
    installed.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    serves: ClassVar[str | None] = None
    _part: ClassVar[PartUnderTest | None] = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._part = None

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Called by pytest: one test for each check of the kind."""
        if "check" in metafunc.fixturenames:
            checks = CONTRACTS[metafunc.cls.kind]
            metafunc.parametrize("check", checks, ids=[check.name for check in checks])

    def test_contract(self, check: Check) -> None:
        """The part keeps the check."""
        import pytest  # plugins may import this module without pytest

        cls = type(self)
        if cls._part is None:
            cls._part = part_under_test(cls.kind, cls.name, installed(), cls.serves)
        result = run_check(check, cls._part, CONTRACTS[cls.kind])
        if result.status == "skipped":
            pytest.skip(result.reason)
        if result.is_error:
            pytest.fail(f"{check.name}: {check.summary}\n{result}", pytrace=False)


def _is_expected_to_fail(test: Any) -> bool:
    """Whether a test is marked `xfail` with a reason."""
    marks = getattr(test, "pytestmark", ())
    return any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)


def _test_of(check: Check) -> Callable[..., None]:
    def test(self: ModalityTests, request: Any) -> None:
        import pytest  # plugins may import this module without pytest

        result = run_check(check, self.plugin_under_test(request))
        if result.status == "skipped":
            pytest.skip(result.reason)
        if result.status == "expected":
            pytest.xfail(str(result))
        if result.is_error:
            pytest.fail(f"{check.name}: {check.summary}\n{result}", pytrace=False)

    test.__name__ = f"test_{check.name}"
    test.__qualname__ = f"ModalityTests.{test.__name__}"
    test.__doc__ = f"{check.summary[0].upper()}{check.summary[1:]}."
    return test


for _check in CHECKS:
    setattr(ModalityTests, f"test_{_check.name}", _test_of(_check))
