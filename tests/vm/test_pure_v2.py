"""The product on Debian's 6.1 kernel with pure cgroup v2, in an emulated machine that is booted once for all checks."""

from __future__ import annotations

import compileall
import json
import sys
from typing import Any

import pytest

from tests.vm import guest_smoke, machine

LIMIT = 350.0
"""Seconds for the whole machine, from power on to power off."""

pytestmark = [pytest.mark.vm, pytest.mark.root]


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """What each check said, by name."""
    reason = machine.missing()
    if reason is not None:
        pytest.skip(reason)
    # The guest sees the checkout read-only and emulated: byte code must be there before.
    compileall.compile_dir(machine.CHECKOUT / "orchestrator", quiet=1)
    ended = machine.run(
        [sys.executable, "-m", "tests.vm.guest_smoke"], kernel=machine.prepare(), timeout=LIMIT, on_line=print
    )
    marked = [line.removeprefix("CHECK ") for line in ended.output.splitlines() if line.startswith("CHECK ")]
    found = {result["name"]: result for result in map(json.loads, marked)}
    assert found, (
        f"the guest reported nothing, exit {ended.status}:\n{ended.output[-3000:]}\n{ended.console[-2000:]}"
    )
    return found


@pytest.mark.parametrize("name", guest_smoke.NAMES)
def test_on_pure_v2(results: dict[str, dict[str, Any]], name: str) -> None:
    assert name in results, "the machine ended before this check"
    assert results[name]["ok"], results[name]["detail"]
    print(f"{results[name]['seconds']} s: {results[name]['detail']}")
