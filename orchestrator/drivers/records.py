"""What each driver remembers of its incarnations: one `record.json` in one folder each, found by listing.

In: incarnations, specs, needs with the incarnations that met them. Out: `Record` values and plain
observations of them. A record is whole or absent (written beside and renamed); one that cannot be read is
only good for deletion. Nothing is synced to disk: a record lost with the power is made again by the next
pass. Must not know what any kind means.
"""

# Plain strings and os below: a thousand of these are read for one `ps`.
# ruff: noqa: PTH102, PTH103, PTH104, PTH108, PTH112, PTH120, PTH208

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.drivers import marks
from orchestrator.drivers.trees import remove_tree
from orchestrator.errors import HostError, StepError
from orchestrator.model import codec
from orchestrator.model.desired import Need, Spec, Until
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observation, Phase
from orchestrator.ports.driver import Bound
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import facts

_NAME = "record.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One incarnation as written down. `spec` is encoded, None where it cannot be read. `ids`: need -> id."""

    target: Incarnation
    spec: Mapping[str, Any] | None
    boot_id: str = ""
    needs: tuple[Need, ...] = ()
    ids: Mapping[Ref, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def readable(self) -> bool:
        return self.spec is not None

    def bound(self, kind: Kind) -> tuple[Incarnation, ...]:
        """The incarnations of one kind that it was bound to, in the order of its needs."""
        return tuple(
            Incarnation(self.target.stack, ref, id) for ref, id in self.ids.items() if ref.kind is kind
        )

    def observation(self, phase: Phase, **more: Any) -> Observation:
        """As observed in `phase`; INCOMPLETE whatever is asked where the record cannot be read."""
        if self.spec is None:
            return Observation(ref=self.target.ref, id=self.target.id, phase=Phase.INCOMPLETE, applied={})
        # A time of an earlier boot says nothing on this boot's clock.
        edited = self.extra.get("edited") if self.boot_id == facts.boot_id() else None
        return Observation(
            ref=self.target.ref,
            id=self.target.id,
            phase=phase,
            applied=self.spec,
            needs=self.needs,
            edited=edited,
            **more,
        )


class Records:
    """The records of some kinds. Safe for several threads that work on different incarnations."""

    def __init__(self, layout: Layout, kinds: frozenset[Kind]) -> None:
        self._layout = layout
        self._kinds = kinds
        self._stacks = os.fspath(layout.state / "stacks")
        self._listed: dict[str, dict[str, tuple[marks.Mark | None, Record]]] = {}  # folder of a kind -> id
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def write(
        self,
        target: Incarnation,
        spec: Spec,
        bound: Sequence[Bound] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> Record:
        """Record a new incarnation, or one anew. Raises StepError with the path where the disk refuses."""
        record = Record(
            target=target,
            spec=codec.encode(spec),
            boot_id=self.boot_id,
            needs=tuple(each.need for each in bound),
            ids={each.need.ref: each.target.id for each in bound},
            extra=dict(extra or {}),
        )
        self._store(record)
        return record

    def rewrite(
        self,
        target: Incarnation,
        *,
        spec: Spec | None = None,
        bound: Sequence[Bound] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Record:
        """Replace the spec, the needs, or keys of `extra`; the rest stays. StepError where there is no record."""
        old = self.read(target)
        if old is None or not old.readable:
            raise StepError(f"{target.ref}: no record of {target.id}", argument=str(self.folder(target)))
        written = old.spec if spec is None else codec.encode(spec)
        edited = {} if written == old.spec else {"edited": facts.boottime()}  # a mending is no edit
        new = replace(
            old,
            spec=written,
            needs=old.needs if bound is None else tuple(each.need for each in bound),
            ids=old.ids if bound is None else {each.need.ref: each.target.id for each in bound},
            extra={**old.extra, **edited, **(extra or {})},
            boot_id=self.boot_id,
        )
        self._store(new)
        return new

    def read(self, target: Incarnation) -> Record | None:
        """The record of one incarnation; None where there is none."""
        folder = self.path(target)
        return self._load(folder, target) if os.path.isdir(folder) else None

    def list(self, stack: str) -> tuple[Record, ...]:
        """All records of the stack, by kind and id. A file that is as it was at the last listing is not decoded again."""
        found: list[Record] = []
        for kind in sorted(self._kinds):
            base = f"{self._stacks}/{stack}/{kind}"
            before, now = self._listed.get(base, {}), {}
            for id in _names(base):
                mark = marks.of(f"{base}/{id}/{_NAME}")
                known = before.get(id)
                if known is not None and known[0] == mark:
                    now[id] = known
                    found.append(known[1])
                    continue
                settled = marks.settled(mark)
                record = self._load(f"{base}/{id}", Incarnation(stack, Ref(kind, id), id))
                if settled:
                    now[id] = mark, record
                found.append(record)
            self._listed[base] = now
        return tuple(found)

    def stacks(self) -> frozenset[str]:
        """The stacks that have a record of one of these kinds."""
        return frozenset(
            stack
            for stack in _names(self._stacks)
            if any(_names(f"{self._stacks}/{stack}/{kind}") for kind in self._kinds)
        )

    def remove(self, target: Incarnation) -> None:
        """Forget it: the record first, then all else in its folder, then folders that are empty now."""
        folder = self.folder(target)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder / _NAME)
        try:
            remove_tree(folder)
        except OSError as error:
            raise StepError.of(f"{target.ref}: cannot remove its record", error) from error
        for parent in (folder.parent, folder.parent.parent):
            try:
                parent.rmdir()
            except OSError:
                return  # another incarnation lives there

    def folder(self, target: Incarnation) -> Path:
        """The folder of one incarnation; its driver may keep more there."""
        return self._layout.record(target)

    def path(self, target: Incarnation) -> str:
        """The same as text, which is ten times as fast."""
        return f"{self._stacks}/{target.stack}/{target.ref.kind}/{target.id}"

    def _store(self, record: Record) -> None:
        folder = self.path(record.target)
        data = {
            "schema": codec.SCHEMA,
            "stack": record.target.stack,
            "ref": str(record.target.ref),
            "id": record.target.id,
            "boot_id": record.boot_id,
            "spec": record.spec,
            "needs": [[str(n.ref), n.until, n.structural, record.ids.get(n.ref)] for n in record.needs],
            "extra": record.extra,
        }
        text = json.dumps(data, separators=(",", ":")).encode()
        try:
            self._put(folder, text)
        except OSError as error:
            raise StepError.of(f"{record.target.ref}: cannot write its record", error) from error

    def _put(self, folder: str, text: bytes) -> None:
        temporary, final = f"{folder}/.{_NAME}", f"{folder}/{_NAME}"
        for attempt in range(5):
            # Again where `remove` of a sibling took an empty parent away in between.
            try:
                private_folders(self._layout.state, folder)
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                break
            except FileNotFoundError:
                if attempt == 4:
                    raise
        try:
            view = memoryview(text)
            while view:
                view = view[os.write(fd, view) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, temporary) from error
        finally:
            os.close(fd)
        os.rename(temporary, final)

    def _load(self, folder: str, guess: Incarnation) -> Record:
        try:
            with open(f"{folder}/{_NAME}", "rb") as file:
                data = json.loads(file.read())
            schema = data["schema"]
            if schema <= codec.SCHEMA:
                return _record(data)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return Record(target=guess, spec=None)
        raise HostError(
            f"{folder}/{_NAME} was written by a newer version (schema {schema}, known: {codec.SCHEMA})",
            hint="use the newer version of the orchestrator",
        )


def private_folders(state: Path, folder: str) -> None:
    """Make `folder` and what is missing above it; what lies at or below `state` is for root alone (0700)."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        parent = os.path.dirname(folder)
        if len(parent) >= len(os.fspath(state)):
            private_folders(state, parent)
        else:
            os.makedirs(parent, 0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)


def _record(data: Mapping[str, Any]) -> Record:
    needs = [(Need(_ref(ref), _UNTIL[until], structural), id) for ref, until, structural, id in data["needs"]]
    spec = data["spec"]
    if not isinstance(spec, dict):
        raise TypeError("spec is not a mapping")
    return Record(
        target=Incarnation(data["stack"], _ref(data["ref"]), data["id"]),
        spec=spec,
        boot_id=data["boot_id"],
        needs=tuple(need for need, _ in needs),
        ids={need.ref: id for need, id in needs if id},
        extra=data["extra"],
    )


_UNTIL: Mapping[str, Until] = {each.value: each for each in Until}
_KINDS: Mapping[str, Kind] = {each.value: each for each in Kind}


def _ref(text: str) -> Ref:
    kind, _, name = text.partition("/")
    return Ref(_KINDS[kind], name)


def _names(folder: str) -> Sequence[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return ()
