"""What holds for every test: nothing of ours stays on the machine when the last one has ended."""

from __future__ import annotations

import os

import pytest

from tests import leaks

BEFORE = pytest.StashKey[leaks.Snapshot]()


def pytest_sessionstart(session: pytest.Session) -> None:
    if os.geteuid() == 0 and not hasattr(session.config, "workerinput"):
        session.config.stash[BEFORE] = leaks.snapshot()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root") or item.get_closest_marker("vm"):
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    before = session.config.stash.get(BEFORE, None)
    if before is None:
        return
    found = leaks.leaked(before)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter:
        reporter.write_line("")
        reporter.write_line(f"leak check: {'nothing left behind' if not found else 'LEFT BEHIND'}")
        for each in found:
            reporter.write_line(f"  {each}", red=True)
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
