"""The product on a host where systemd is process 1, as on an ordinary Debian: in the emulated machine, booted once."""

from __future__ import annotations

import compileall
import re
import sys
from pathlib import Path

import pytest

from tests.vm import machine

LIMIT = 350.0
"""Seconds for the whole machine, from power on to power off."""
NAMES = re.findall(r"^check (\w+) ", (machine.HERE / "systemd_smoke.sh").read_text(), re.MULTILINE)

pytestmark = [pytest.mark.vm, pytest.mark.root]


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    """What each check said, by name."""
    reason = machine.missing()
    if reason is not None:
        pytest.skip(reason)
    if not Path("/lib/systemd/systemd").exists():
        pytest.skip("systemd is not installed here, so the machine, which shares our files, cannot boot it")
    compileall.compile_dir(machine.CHECKOUT / "orchestrator", quiet=1)
    command = ["sh", "tests/vm/systemd_boot.sh", sys.executable]
    ended = machine.run(command, kernel=machine.prepare(), timeout=LIMIT, on_line=print)
    found = dict(re.findall(r"^CHECK (\w+) (.*)$", ended.output, re.MULTILINE))
    assert found, (
        f"nothing was checked, exit {ended.status}:\n{ended.output[-3000:]}\n{ended.console[-2000:]}"
    )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_with_systemd(results: dict[str, str], name: str) -> None:
    assert results.get(name) == "ok"
