"""Cgroups below our own folder of which nothing is recorded: what a record that was deleted by hand leaves.

In: what is known. Out: kinds and ids, without touching anything. Only what bears the instance's mark is looked at.
"""

from __future__ import annotations

# ruff: noqa: PTH116
import os
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress

from orchestrator.drivers.embedded.cgroups import Cgroups, Names
from orchestrator.errors import HostError
from orchestrator.model.ids import Kind


def stacks(cgroups: Cgroups) -> frozenset[str]:
    """The stacks that have a cgroup."""
    return frozenset(names[0] for names in _below(cgroups, ()))


def strangers(
    cgroups: Cgroups, stack: str, known: Container[str], running: Mapping[str, int]
) -> Iterator[tuple[Kind, str]]:
    """Groups and containers with a cgroup and an id that is not `known`. `running`: for each group that is known, how many
    containers surely have one: a folder's links tell how many are in it, and only where there are more they are listed."""
    groups = list(running)
    if _count(cgroups, (stack,)) > len(groups):
        groups = [names[1] for names in _below(cgroups, (stack,))]
        yield from ((Kind.GROUP, id) for id in groups if id not in known)
    for group in groups:
        if _count(cgroups, (stack, group)) > running.get(group, 0):
            below = _below(cgroups, (stack, group))
            yield from ((Kind.CONTAINER, names[2]) for names in below if names[2] not in known)


def _count(cgroups: Cgroups, names: Names) -> int:
    """The folders in a cgroup's: each has a link to its parent."""
    with suppress(OSError, HostError):
        return os.stat(cgroups.folder(names)).st_nlink - 2
    return 0


def _below(cgroups: Cgroups, names: Names) -> Iterator[Names]:
    with suppress(OSError, HostError), os.scandir(cgroups.folder(names)) as entries:
        for each in entries:
            if each.is_dir(follow_symlinks=False):
                yield (*names, each.name)
