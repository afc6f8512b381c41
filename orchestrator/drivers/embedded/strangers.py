"""Cgroups below our own folder of which nothing is recorded: what a record that was deleted by hand leaves.

In: what is known. Out: kinds and ids, without touching anything. Only what bears the instance's mark is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from contextlib import suppress

from orchestrator.drivers.embedded.cgroups import Cgroups, Names
from orchestrator.errors import HostError
from orchestrator.model.ids import Kind


def stacks(cgroups: Cgroups) -> frozenset[str]:
    """The stacks that have a cgroup."""
    return frozenset(names[0] for names in _below(cgroups, ()))


def strangers(cgroups: Cgroups, stack: str, known: Container[str]) -> Iterator[tuple[Kind, str]]:
    """Groups and containers with a cgroup and an id that is not `known`."""
    for group in _below(cgroups, (stack,)):
        if group[1] not in known:
            yield Kind.GROUP, group[1]
        yield from ((Kind.CONTAINER, each[2]) for each in _below(cgroups, group) if each[2] not in known)


def _below(cgroups: Cgroups, names: Names) -> Iterator[Names]:
    with suppress(OSError, HostError), os.scandir(cgroups.folder(names)) as entries:
        for each in entries:
            if each.is_dir(follow_symlinks=False):
                yield (*names, each.name)
