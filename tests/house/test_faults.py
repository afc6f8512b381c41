"""docs/faults.md names every fault of the list, and only tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docs/faults.md").read_text()


def test_every_fault_has_a_row() -> None:
    rows = re.findall(r"^\| (F\d\d) ", TEXT, re.M)
    assert rows == [f"F{number:02}" for number in (*range(1, 29), 31)]


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 30
    gone = [f"{file}::{name}" for file, name in named if not _defines(REPOSITORY / file, name)]
    assert not gone


def _defines(file: Path, name: str) -> bool:
    return file.exists() and re.search(rf"^ *def {name}\(", file.read_text(), re.M) is not None
