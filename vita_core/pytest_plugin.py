"""``pytest --vita-tower NAME_OR_CONFIG``: the conformance kit as tests. Imported by every pytest, so nothing heavy here."""

from __future__ import annotations

import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vita_core.testing import Check, Subject


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--vita-tower``."""
    parser.getgroup("vita", "vision towers (vita-core)").addoption(
        "--vita-tower",
        action="append",
        default=[],
        metavar="NAME_OR_CONFIG",
        help="hold a vision tower to vita-core's contracts, a test each: a registered name (random weights) or a config "
        "(its own weights); may be given again",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell a misspelled tower before anything is collected."""
    if not config.getoption("vita_tower"):
        return
    from vita_core.config.configfiles import config_file
    from vita_core.errors import VitaError
    from vita_core.planning.towers import named_tower

    for name in config.getoption("vita_tower"):
        try:
            named_tower(name) or config_file(name)
        except VitaError as error:
            raise pytest.UsageError(f"--vita-tower {name}: {error}") from error


@pytest.hookimpl(tryfirst=True)  # before -k and --lf choose among the items
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one item per tower and check to what was collected."""
    for name in dict.fromkeys(config.getoption("vita_tower")):
        nodeid = f"vita-tower[{name}]"
        tower = TowerNode.from_parent(session, name=nodeid, nodeid=nodeid, tower=name)
        items.extend(session.genitems(tower))


class TowerNode(pytest.Collector):
    """One tower; its checks are its items, and share its subject."""

    def __init__(self, *, tower: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tower = tower
        self._open = ExitStack()
        self.subject: Subject | None = None

    def collect(self) -> list[CheckItem]:
        """One item a check."""
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
        """Remove its random weights after the last."""
        self._open.close()


class CheckFailedError(Exception):
    """A failed check; the message is the result's."""


class CheckItem(pytest.Item):
    """One check of one tower."""

    parent: TowerNode

    def __init__(self, *, check: Check, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check = check

    def runtest(self) -> None:
        """Run the check; skipped and failed results become pytest's own."""
        assert self.parent.subject is not None
        result = self.check.run(self.parent.subject)
        if result.outcome == "skipped":
            pytest.skip(result.seen)
        if result.outcome == "failed":
            raise CheckFailedError(result.message) from result.error

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The check's own message; with the traceback where the tower's code raised."""
        if not isinstance(excinfo.value, CheckFailedError):
            return super().repr_failure(excinfo, style)
        cause = excinfo.value.__cause__
        told = str(excinfo.value)
        return told if cause is None else told + "\n\n" + "".join(traceback.format_exception(cause))

    def reportinfo(self) -> tuple[Path, None, str]:
        """What pytest shows as the item's place: its id."""
        return self.path, None, self.nodeid
