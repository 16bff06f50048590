"""The pytest option ``--vita-tower NAME_OR_CONFIG``, which runs the conformance kit as tests.

Every pytest run imports this module, so it must not import anything heavy.
"""

from __future__ import annotations

import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vita_core.testing import Check, Subject


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--vita-tower``."""
    parser.getgroup("vita", "vision towers (vita-core)").addoption(
        "--vita-tower",
        action="append",
        default=[],
        metavar="NAME_OR_CONFIG",
        help="test a vision tower against vita-core's contracts, one test each: a registered name (with random weights) or "
        "a config (with its own weights); can be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Report an unknown tower before any test is collected."""
    if not config.getoption("vita_tower"):
        return
    from vita_core.config.configfiles import config_file
    from vita_core.errors import VitaError
    from vita_core.planning.described import named_tower

    for name in config.getoption("vita_tower"):
        try:
            named_tower(name) or config_file(name)
        except VitaError as error:
            raise pytest.UsageError(f"--vita-tower {name}: {error}") from error


@pytest.hookimpl(tryfirst=True)  # before -k and --lf select items
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one item per tower and check to the collected items."""
    for name in dict.fromkeys(config.getoption("vita_tower")):
        nodeid = f"vita-tower[{name}]"
        tower = TowerNode.from_parent(session, name=nodeid, nodeid=nodeid, tower=name)
        items.extend(session.genitems(tower))


class TowerNode(pytest.Collector):
    """One tower. Its items are the checks, which share one subject."""

    def __init__(self, *, tower: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tower = tower
        self._open = ExitStack()
        self.subject: Subject | None = None

    def collect(self) -> list[CheckItem]:
        """Return one item per check."""
        from vita_core.testing import CHECKS

        return [CheckItem.from_parent(self, name=check.name, check=check) for check in CHECKS]

    def setup(self) -> None:
        """Open the tower before its first check."""
        from vita_core.errors import VitaError
        from vita_core.testing import open_subject

        try:
            self.subject = self._open.enter_context(open_subject(self.tower))
        except VitaError as error:
            pytest.fail(str(error), pytrace=False)

    def teardown(self) -> None:
        """Close the tower, and remove its random weights, after the last check."""
        self._open.close()


class CheckFailedError(Exception):
    """A check that failed. The message is that of its result."""


class CheckItem(pytest.Item):
    """One check of one tower."""

    parent: TowerNode

    def __init__(self, *, check: Check, **kwargs: Any) -> None:
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
        """Return the message of the check, with the traceback if the tower's code raised an exception."""
        if not isinstance(excinfo.value, CheckFailedError):
            return super().repr_failure(excinfo, style)
        cause = excinfo.value.__cause__
        told = str(excinfo.value)
        return told if cause is None else told + "\n\n" + "".join(traceback.format_exception(cause))

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return the item's id, which pytest shows as its place."""
        return self.path, None, self.nodeid
