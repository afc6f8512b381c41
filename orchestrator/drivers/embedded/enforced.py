"""What the kernel enforces of the limits of a stack, group or container, read back from its cgroup's files.

In: names and limits. Out: values in the model's terms. The kernel is asked each time; what it said the last time is not
parsed again. Must not write anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from orchestrator.drivers.embedded import limits as values
from orchestrator.drivers.embedded.cgroups import Cgroups, Names
from orchestrator.drivers.embedded.readings import Readings
from orchestrator.model import codec
from orchestrator.model.desired import Limits


@dataclass(frozen=True, slots=True)
class _File:
    """One interface file, which speaks of `field`."""

    field: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class _Look:
    """What was read, of which limits, and what it means. `there`: the controllers that v2 has at this level."""

    encoded: Mapping[str, Any] | None
    there: bytes | None
    files: tuple[_File, ...]
    raw: tuple[bytes | None, ...]
    meaning: Mapping[str, Any]


class Enforced:
    """Safe for several threads."""

    def __init__(self, cgroups: Cgroups, readings: Readings) -> None:
        self._cgroups = cgroups
        self._readings = readings
        self._looks: dict[Names, _Look] = {}

    def read(self, names: Names, limits: Limits) -> dict[str, Any]:
        """`limits.<field>` -> the kernel's value, encoded, of the fields that are set; without those that have no file."""
        files = tuple(each for each in self._files(names, limits, b"") if _is_set(limits, each.field))
        raw = self._raw(names, files)
        held = {each.field for each, text in zip(files, raw, strict=True) if text is not None}
        found = self._values(files, raw, limits)
        return {f"limits.{name}": value for name, value in found.items() if name in held}

    def observed(self, names: Names, encoded: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """The same as a planner compares it with the wished limits `encoded`: a field that is set and has no file is None;
        one that is not set is told only if somebody took our default away. The same object as long as nothing changed."""
        there = None
        if 2 in self._cgroups.versions.values():
            path = f"{self._cgroups.folder(names)}/cgroup.controllers"
            there = self._readings.read(names, "cgroup.controllers", path)
        look = self._looks.get(names)
        if look is not None and look.encoded is encoded and look.there == there:
            files = look.files
        else:
            look = None
            files = tuple(self._files(names, self._effective(names, encoded), there or b""))
        raw = self._raw(names, files)
        if look is None or look.raw != raw:
            meaning = self._meaning(names, encoded, files, raw)
            self._looks[names] = look = _Look(encoded, there, files, raw, meaning)
        return look.meaning

    def exists(self, names: Names) -> bool:
        """Whether the cgroup is there."""
        path = f"{self._cgroups.folder(names)}/cgroup.events"
        return self._readings.read(names, "cgroup.events", path) is not None

    def count(self, stack: str) -> int:
        """How many cgroups there are below the stack's."""
        text = self._readings.read((stack,), "cgroup.stat", f"{self._cgroups.folder((stack,))}/cgroup.stat")
        found = re.match(rb"nr_descendants (\d+)", text or b"")
        return int(found[1]) if found else 0

    def keep(self, stack: str, names: Set[Names]) -> None:
        """Forget what is the stack's and not in `names`."""
        for each in [each for each in self._looks if each[0] == stack and each not in names]:
            self._looks.pop(each, None)

    # parts

    def _effective(self, names: Names, encoded: Mapping[str, Any] | None) -> Limits:
        return values.effective(_decoded(encoded), container=len(names) == 3)

    def _files(self, names: Names, wished: Limits, there: bytes) -> Iterator[_File]:
        """The files of all fields that are set, and of those that could be: on v1 where a limit of theirs made a folder."""
        wanted, controllers = values.controllers(wished), there.decode().split()
        for field, controller in values.CONTROLLER_OF.items():
            version = self._cgroups.versions[controller]
            if version is None:
                continue
            if not _is_set(wished, field):
                inherited = version == 1 and field in ("cpuset", "io")
                made = controller in (wanted if version == 1 else controllers)
                if inherited or not made:
                    continue
            folder = self._cgroups.folder(names, controller)
            for name in values.files_of(field, version):
                yield _File(field, name, f"{folder}/{name}")

    def _raw(self, names: Names, files: tuple[_File, ...]) -> tuple[bytes | None, ...]:
        read = self._readings.read
        return tuple([read(names, each.name, each.path) for each in files])

    def _meaning(
        self,
        names: Names,
        encoded: Mapping[str, Any] | None,
        files: tuple[_File, ...],
        raw: tuple[bytes | None, ...],
    ) -> Mapping[str, Any]:
        own, wished = _decoded(encoded), self._effective(names, encoded)
        found: dict[str, Any] = {}
        for field, value in self._values(files, raw, wished).items():
            if _is_set(own, field):
                found[f"limits.{field}"] = value
            elif value != codec.encode(getattr(wished, field)) and value != []:
                found[f"limits.{field}"] = "max" if value is None else value
        return found

    def _values(
        self, files: tuple[_File, ...], raw: tuple[bytes | None, ...], wished: Limits
    ) -> dict[str, Any]:
        """Field -> value; None is no limit, or no file. Without swap where it is not accounted: there is none to limit."""
        texts: dict[str, dict[str, str]] = {}
        for each, text in zip(files, raw, strict=True):
            texts.setdefault(each.field, {})[each.name] = (text or b"").decode()
        missing = {each.field for each, text in zip(files, raw, strict=True) if text is None}
        found: dict[str, Any] = {}
        for field, named in texts.items():
            version = self._cgroups.versions[values.CONTROLLER_OF[field]] or 2
            if field == "io":
                found[field] = self._io(named, wished, version)
            elif field not in missing:
                found[field] = values.value_read(field, next(iter(named.values())), wished, version)
            elif field != "swap" or "memory" in missing:
                found[field] = None
        return found

    def _io(self, named: Mapping[str, str], wished: Limits, version: int) -> list[Any]:
        """The entries that the kernel holds number for number, and lines that nobody wishes as they are."""
        held, left = [], {name: text.splitlines() for name, text in named.items()}
        for limit in wished.io:
            device = self._cgroups.device(limit.device)
            lines = dict(values.io_v1(limit, device))
            if version == 2:
                lines = {"io.max": values.io_line(limit, device)}
            lines = {name: line for name, line in lines.items() if not line.endswith(" 0")}
            if all(line in left.get(name, ()) for name, line in lines.items()):
                held.append(codec.encode(limit))
                for name, line in lines.items():
                    left[name].remove(line)
        return [*held, *(line for lines in left.values() for line in lines)]


def _is_set(limits: Limits, field: str) -> bool:
    return getattr(limits, field) not in (None, ())


def _decoded(encoded: Mapping[str, Any] | None) -> Limits:
    limits: Limits = codec.decode(Limits, encoded) if encoded else Limits()
    return limits
