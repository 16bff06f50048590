"""The pytest options ``--vita-tower``, ``--vita-reduction`` and ``--vita-projector``, which run the conformance kit as tests.

Every pytest run imports this module, so it must not import anything heavy.
"""

from __future__ import annotations

import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vita_core.masking import masked

if TYPE_CHECKING:
    from vita_core.testing import Check

OPTIONS = {"tower": "--vita-tower", "reduction": "--vita-reduction", "projector": "--vita-projector"}
"""What the conformance kit tests, and the option for it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("vita", "conformance tests (vita-core)")
    for kind, option in OPTIONS.items():
        config = (
            " (with random weights) or a config (with its own weights)" if kind == "tower" else ", with random weights"
        )
        group.addoption(
            option,
            action="append",
            default=[],
            metavar="NAME_OR_CONFIG" if kind == "tower" else "NAME",
            help=f"test a {kind} against vita-core's contracts, one test each: a registered name{config}; can be repeated",
        )


def _named(config: pytest.Config) -> list[tuple[str, str]]:
    """Return the kind and the name of everything to test."""
    return [(kind, name) for kind in OPTIONS for name in dict.fromkeys(config.getoption(f"vita_{kind}"))]


def pytest_configure(config: pytest.Config) -> None:
    """Report an unknown name before any test is collected."""
    if not _named(config):
        return
    from vita_core.errors import VitaError
    from vita_core.planning.named import check_named

    for kind, name in _named(config):
        try:
            check_named(name, kind)
        except VitaError as error:
            raise pytest.UsageError(f"{OPTIONS[kind]} {name}: {error}") from error


@pytest.hookimpl(tryfirst=True)  # before -k and --lf select items
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one item per name and check to the collected items."""
    for kind, name in _named(config):
        nodeid = f"vita-{kind}[{name}]"
        node = SubjectNode.from_parent(session, name=nodeid, nodeid=nodeid, kind=kind, subject_name=name)
        items.extend(session.genitems(node))


class SubjectNode(pytest.Collector):
    """One tower, reduction or projector. Its items are the checks, which share one subject."""

    def __init__(self, *, kind: str, subject_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind, self.subject_name = kind, subject_name
        self._open = ExitStack()
        self.subject: Any = None

    def collect(self) -> list[CheckItem]:
        """Return one item per check."""
        from vita_core.testing import KIT

        return [CheckItem.from_parent(self, name=check.name, check=check) for check in KIT[self.kind][0]]

    def setup(self) -> None:
        """Open the subject before its first check."""
        from vita_core.errors import VitaError
        from vita_core.testing import KIT

        try:
            self.subject = self._open.enter_context(KIT[self.kind][1](self.subject_name, ()))
        except VitaError as error:
            pytest.fail(str(error), pytrace=False)

    def teardown(self) -> None:
        """Close the subject, and remove its random weights, after the last check."""
        self._open.close()


class CheckFailedError(Exception):
    """A check that failed. The message is that of its result."""


class CheckItem(pytest.Item):
    """One check of one subject."""

    parent: SubjectNode

    def __init__(self, *, check: Check[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check = check

    def runtest(self) -> None:
        """Run the check, and report skipped and failed results to pytest."""
        assert self.parent.subject is not None
        result = self.check.run(self.parent.subject)
        if result.outcome == "skipped":
            pytest.skip(result.seen)
        if result.outcome == "failed":
            raise CheckFailedError(result.message) from result.error

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the message of the check, with the traceback if the tested code raised an exception."""
        if not isinstance(excinfo.value, CheckFailedError):
            return super().repr_failure(excinfo, style)
        cause = excinfo.value.__cause__
        told = str(excinfo.value)
        return told if cause is None else masked(told + "\n\n" + "".join(traceback.format_exception(cause)))

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return the item's id, which pytest shows as its place."""
        return self.path, None, self.nodeid
