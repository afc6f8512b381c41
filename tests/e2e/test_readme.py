"""The README's transcript, replayed on the real runtime: what it shows is what happens."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import REPOSITORY, Stage
from tests.transcripts.replay import parse

pytestmark = pytest.mark.root


def test_readme_shows_what_happens(stage: Stage) -> None:
    text = (REPOSITORY / "README.md").read_text()
    blocks = [each for each in parse(_console(text)) if each.command]
    assert len(blocks) > 5
    for block in blocks:
        assert block.command
        done = stage.inside("sh", "-c", f"{{ {block.command}; }} 2>&1", **_environment(stage))
        assert _settled(done.out.splitlines()) == _settled(block.lines), f"$ {block.command}\n{done.out}"


def _console(text: str) -> str:
    found = re.search(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, "the README has no console block"
    return found[1]


def _environment(stage: Stage) -> dict[str, str]:
    return {
        "ORCHESTRATOR_ROOT": str(stage.root),
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
    }


def _settled(lines: list[str] | tuple[str, ...]) -> list[str]:
    """Without what differs from run to run: numbers of processes, of subnets, of the answering replica, times, and the
    order of what happens in parallel."""
    known = []
    for line in lines:
        line = re.sub(r"(running +\w+ +)\d+ +", r"\1PID ", line)
        line = re.sub(r"exited +- +- +", "exited - - ", line)
        line = re.sub(r"REF .*", "REF", line)
        line = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "WHEN", line)
        line = re.sub(r"after [\d.]+ s", "after N s", line)
        line = re.sub(r"10\.87\.\d+\.", "10.87.N.", line)
        known.append(re.sub(r"said by web-\d", "said by web-N", line).rstrip())
    return sorted(known)
