"""The short way from one set of rules to another ends where the whole text does, as the kernel lists it."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from orchestrator.drivers.network.namespace import entered
from orchestrator.drivers.network.nft import change, remove, whole
from orchestrator.drivers.network.rules import Rules, table
from tests.kernel.network_lab import Wire
from tests.unit.test_network_rules import NAMES, rules

pytestmark = pytest.mark.root
MARKS = rules("one-service")


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    wire = Wire(groups=0)
    yield wire.host
    wire.close()


def load(script: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + script


def listed() -> list[str]:
    """What the kernel holds, chain by chain whatever their order."""
    done = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True)
    return sorted(each.strip("\n}") for each in done.stdout.split("\n\n"))


def same_marks(name: str) -> Rules:
    return replace(rules(name), table=MARKS.table, group=MARKS.group, hub=MARKS.hub)


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(NAMES, 2)))
def test_a_change_leads_where_the_whole_leads(place: str, old: str, new: str) -> None:
    before, after = table(same_marks(old)), table(same_marks(new))
    with entered(place):
        load(whole(after))
        wanted = listed()
        load(whole(before))
        assert listed() != wanted
        script = change(before, after)
        assert script is not None
        load(script)
        assert listed() == wanted
        load(remove(MARKS.table))
        assert listed() == [""]
