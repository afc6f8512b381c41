"""Which groups are attached in this boot: `network.json` in each one's run folder.

In: ids. Out: `Attached` values, decoded again only when the file's mark changed. The file is written last by an attach:
what has none was cut off and is made anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.drivers import marks
from orchestrator.drivers.network import files
from orchestrator.drivers.network.ipam import located
from orchestrator.ports.layout import Layout

STATE = "network.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A group as attached in this boot: network -> address, in the order of its networks. `dns` None: not recorded."""

    boot: str
    stack: str
    ref: str
    id: str
    hostname: str
    netns: str
    networks: Mapping[str, str]
    dns: Sequence[str] | None = None


class Register:
    """The attached groups of one instance. Safe for threads that work on different groups."""

    def __init__(self, layout: Layout, boot_id: str) -> None:
        self._groups = os.fspath(layout.run / "groups")
        self._boot_id = boot_id
        self._seen: dict[str, tuple[marks.Mark, Attached | None]] = {}
        self._listed: marks.Mark | None = None

    def folder(self, id: str) -> str:
        return f"{self._groups}/{id}"

    def read(self, id: str) -> Attached | None:
        """None where the group is not attached."""
        path = f"{self._groups}/{id}/{STATE}"
        mark = marks.of(path)
        if mark is None:
            return None
        seen = self._seen.get(id)
        if seen is not None and seen[0] == mark:
            return seen[1]
        settled, found = marks.settled(mark), self._parse(path)
        if settled:
            self._seen[id] = (mark, found)
        return found

    def store(self, each: Attached) -> None:
        files.write(Path(self.folder(each.id), STATE), json.dumps(asdict(each)))

    def on(self, stack: str, network: str) -> Iterator[Attached]:
        """The stack's attached groups of a network."""
        return (each for each in self._all() if each.stack == stack and network in each.networks)

    def sharing(self, stack: str, network: str) -> Iterator[Attached]:
        """The attached groups of a network, of whatever stack."""
        place = located(stack, network)
        for each in self._all():
            if any(located(each.stack, name) == place for name in each.networks):
                yield each

    def changed(self) -> frozenset[str] | None:
        """The ids that have a folder; None where no folder came or went since this was asked last."""
        now = marks.of(self._groups)
        if now is not None and now == self._listed:
            return None
        settled, ids = marks.settled(now), frozenset(self._ids())
        self._listed = now if settled else None
        for id in self._seen.keys() - ids:
            self._seen.pop(id, None)
        return ids

    def _all(self) -> Iterator[Attached]:
        for id in self._ids():
            found = self.read(id)
            if found is not None:
                yield found

    def _ids(self) -> list[str]:
        try:
            return sorted(os.listdir(self._groups))  # noqa: PTH208
        except FileNotFoundError:
            return []

    def _parse(self, path: str) -> Attached | None:
        try:
            data = json.loads(Path(path).read_text())
            return Attached(**data) if data["boot"] == self._boot_id else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, LookupError, TypeError):
            return None  # cut off while it was written: not attached
