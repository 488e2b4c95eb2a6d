"""The checks as a class of tests, for the author of a plugin."""

from collections.abc import Callable
from typing import Any, ClassVar

from diffcore.plugins.records import Modality
from diffcore.testing.checks import CHECKS, Check
from diffcore.testing.conformance import run_check, subject_of
from diffcore.testing.subject import Subject


class ModalityTests:
    """A pytest test for each check of `diffcore check-plugin`. An author writes

        class TestMine(ModalityTests):
            modality = "mine"

    where `modality` is the name of an installed modality, a `Modality` record, or a pytest fixture that gives either;
    `denoiser` names one of its denoisers, the first where it is None. A check that cannot pass yet is declared in
    `Contract.expected_failures`, with the reason. A subclass that overrides or deletes the test of a check raises
    `TypeError`, unless its own test is marked `xfail` with a reason.
    """

    modality: ClassVar[Any] = None
    denoiser: ClassVar[str | None] = None
    _prepared: ClassVar[Subject | None] = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._prepared = None
        for check in CHECKS:
            name = f"test_{check.name}"
            test = getattr(cls, name, None)
            if test is not getattr(ModalityTests, name) and not _excused(test):
                raise TypeError(
                    f"{cls.__name__}.{name} replaces a check of plugins; mark it pytest.mark.xfail(reason=...), or "
                    f"declare {check.name!r} in the expected_failures of the modality's contract"
                )

    @classmethod
    def subject(cls, request: Any) -> Subject:
        """What is checked, made once for all tests of the class."""
        if cls._prepared is None:
            modality = cls.modality
            if not isinstance(modality, str | Modality):
                modality = request.getfixturevalue("modality")
            cls._prepared = subject_of(modality, cls.denoiser)
        return cls._prepared


def _excused(test: Any) -> bool:
    """Whether a test is marked as failing, with a reason."""
    marks = getattr(test, "pytestmark", ())
    return any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)


def _test_of(check: Check) -> Callable[..., None]:
    def test(self: ModalityTests, request: Any) -> None:
        import pytest

        result = run_check(check, self.subject(request))
        if result.status == "skipped":
            pytest.skip(result.reason)
        if result.status == "expected":
            pytest.xfail(str(result))
        if result.wrong:
            pytest.fail(f"{check.name}: {check.summary}\n{result}", pytrace=False)

    test.__name__ = f"test_{check.name}"
    test.__qualname__ = f"ModalityTests.{test.__name__}"
    test.__doc__ = f"{check.summary[0].upper()}{check.summary[1:]}."
    return test


for _check in CHECKS:
    setattr(ModalityTests, f"test_{_check.name}", _test_of(_check))
