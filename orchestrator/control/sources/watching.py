"""Says which sources to look at again, soon after a file that they depend on has changed: inotify, and a slow poll.

In: for each source the exact paths. Out: `notify(number, paths)` on a thread of its own, when it has been quiet for a
moment, at the latest a second after the first change. It never says what changed how: contents decide. Where inotify's
limits are exhausted, or events do not come (network file systems, an overflow), the poll alone finds out.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from watchdog import events
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from orchestrator.control.sources.places import Places, Signature, entries, identity

log = logging.getLogger(__name__)

QUIET = 0.04  # seconds without a change, twice, until it is told
QUIET_POLLED = 0.3  # of changes that only the poll saw: nobody tells whether a writer is still at work
LONGEST = (
    1.0  # seconds after the first change, however many follow; also for a file that stays open for writing
)
POLL = 2.0
POLL_ALONE = 1.0  # where there is no inotify
TRY_AGAIN = 30.0  # seconds until exhausted inotify is asked again
MOST_FOLDERS = 256  # a thread each; what lies in others is polled

_SEEN = [
    events.FileCreatedEvent,
    events.FileModifiedEvent,
    events.FileClosedEvent,
    events.FileDeletedEvent,
    events.FileMovedEvent,
    events.DirCreatedEvent,
    events.DirDeletedEvent,
    events.DirMovedEvent,
]
_EXHAUSTED = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM)

Notify = Callable[[int, frozenset[str]], object]
Interest = frozenset[tuple[int, str]]  # (source, its path that an entry leads to)


@dataclass(slots=True)
class _Source:
    """`changed`: its paths of which something was heard; `first`, `last`: when. `writing`: files open for writing."""

    places: Places
    signatures: dict[str, Signature] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    first: float | None = None
    last: float = 0.0
    writing: set[str] = field(default_factory=set)
    polled: bool = False

    def touched(self, path: str, now: float) -> bool:
        """True when it is the first change since it was told."""
        self.changed.add(path)
        self.last = now
        begun = self.first is None
        self.first = now if self.first is None else self.first
        return begun

    def due(self, now: float) -> float | None:
        if self.first is None:
            return None
        quiet = QUIET_POLLED if self.polled else QUIET
        return min((now if self.writing else self.last) + quiet, self.first + LONGEST)

    def told(self) -> frozenset[str]:
        """What has changed until now; from now on it is quiet again."""
        changed = frozenset(self.changed)
        self.changed.clear()
        self.writing.clear()
        self.first, self.polled = None, False
        return changed


class Watcher:
    """`observer` makes a watchdog observer. Use `set`, `drop` and `close` from any thread but the one of `notify`'s."""

    def __init__(self, notify: Notify, *, observer: Callable[[], BaseObserver] = Observer) -> None:
        self._notify = notify
        self._make = observer
        self._sources: dict[int, _Source] = {}
        self._entries: Mapping[str, Interest] = {}
        self._folders: Mapping[str, Interest] = {}
        self._lost: set[str] = set()  # folders whose inode is gone: another one may get its number
        self._state = threading.Condition()  # of what is above; the observer's threads take it
        self._arming = threading.Lock()  # of what is below; never taken by the observer's threads
        self._observer: BaseObserver | None = None
        self._armed: dict[str, tuple[Signature, ObservedWatch]] = {}
        self._ask_again = 0.0
        self._closed = False
        self.exhausted: str | None = None
        logging.getLogger("watchdog").setLevel(logging.CRITICAL)  # an overflow is nothing to tell: we poll
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def set(self, number: int, places: Places) -> None:
        """From when this returns no change of `places` is missed."""
        fresh = places.signatures()
        with self._state:
            known = self._sources.setdefault(number, _Source(places=places))
            known.places = places
            known.signatures = {path: known.signatures.get(path, sign) for path, sign in fresh.items()}
            self._state.notify()
        self._arm()

    def drop(self, number: int) -> None:
        with self._state:
            self._sources.pop(number, None)
        self._arm()

    def close(self) -> None:
        with self._state:
            self._closed = True
            self._state.notify()
        self._thread.join()
        with self._arming:
            if self._observer is not None:
                self._observer.stop()
                self._observer.join()
                self._observer = None

    # what is heard, on the observer's thread

    def heard(self, event: events.FileSystemEvent) -> None:
        now = time.monotonic()
        with self._state:
            for path in {os.fsdecode(event.src_path), os.fsdecode(event.dest_path)} - {""}:
                if isinstance(event, events.DirDeletedEvent):
                    self._lost.add(path)
                folder, _, name = path.rpartition("/")
                found = self._entries.get(path, frozenset())
                if name.endswith((".yaml", ".yml")) and not name.startswith("."):
                    found |= self._folders.get(folder or "/", frozenset())
                for number, which in found:
                    self._touch(number, which, path, now, event)

    def _touch(self, number: int, which: str, path: str, now: float, event: events.FileSystemEvent) -> None:
        source = self._sources.get(number)
        written = isinstance(event, events.FileModifiedEvent | events.FileClosedEvent)
        if source is None or (written and which not in source.places.files):
            return
        if isinstance(event, events.FileModifiedEvent):
            source.writing.add(path)
        else:
            source.writing.discard(path)
        if source.touched(which, now):
            self._state.notify()

    # what is told, on our own thread

    def _run(self) -> None:
        polled = time.monotonic()
        while True:
            with self._state:
                now = time.monotonic()
                dues = [at for each in self._sources.values() if (at := each.due(now)) is not None]
                poll = polled + (POLL_ALONE if self.exhausted else POLL)
                until = min([*dues, *([poll] if self._sources else [])], default=None)
                if not self._closed and (until is None or until > now):
                    self._state.wait(None if until is None else until - now)
                if self._closed:
                    return
                now = time.monotonic()
                due = [
                    n for n, each in self._sources.items() if (at := each.due(now)) is not None and at <= now
                ]
            if now >= poll:
                self._poll()
                polled = time.monotonic()
            for number in due:
                self._tell(number)

    def _poll(self) -> None:
        with self._state:
            known = list(self._sources.values())
        for source in known:
            if not self._look(source):
                with self._state:
                    source.polled = True
        self._arm()

    def _look(self, source: _Source) -> bool:
        """Compares paths with what they were; True: none of them has changed."""
        fresh = source.places.signatures()
        with self._state:
            moved = [path for path, before in source.signatures.items() if fresh.get(path, before) != before]
            for path in moved:
                source.touched(path, time.monotonic())
                source.signatures[path] = fresh[path]
        return not moved

    def _tell(self, number: int) -> None:
        """Not yet, if it has changed since the last look: nobody shall read what is half written."""
        with self._state:
            source = self._sources.get(number)
            if source is None or source.first is None:
                return
            began = source.first
        if not self._look(source) and time.monotonic() < began + LONGEST:
            return
        self._arm()  # before anybody reads: a folder or link on the way may be another one now
        with self._state:
            changed = source.told()
        self._notify(number, changed)

    # what is listened to

    def _arm(self) -> None:
        """Listen to exactly the folders that matter now, each as the inode that it is now."""
        with self._arming:
            if self._closed:
                return
            wanted = self._interests()
            with self._state:
                lost, self._lost = self._lost, set()
            for folder, (known, watch) in list(self._armed.items()):
                if folder not in wanted or folder in lost or known != identity(folder):
                    del self._armed[folder]
                    assert self._observer is not None
                    self._observer.unschedule(watch)
            missing = [folder for folder in wanted if folder not in self._armed]
            if not missing:
                self.exhausted = None
            elif time.monotonic() >= self._ask_again:
                self.exhausted = self._listen(missing[: MOST_FOLDERS - len(self._armed)])
                self._ask_again = time.monotonic() + TRY_AGAIN if self.exhausted else 0.0

    def _interests(self) -> dict[str, None]:
        """Renews who is interested in which entry; the folders of those entries, the nearest of all paths first."""
        with self._state:
            paths = [(number, path) for number, each in self._sources.items() for path in each.signatures]
        by_entry: dict[str, set[tuple[int, str]]] = {}
        by_folder: dict[str, set[tuple[int, str]]] = {}
        folders: dict[str, None] = {}
        for number, path in paths:
            if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises on a null character
                real = os.path.realpath(path)
                by_folder.setdefault(real, set()).add((number, path))
                folders[real] = None
            for folder, name in sorted(entries(path), reverse=True):
                by_entry.setdefault(os.path.join(folder, name), set()).add((number, path))  # noqa: PTH118
                folders[folder] = None
        with self._state:
            self._entries = {entry: frozenset(each) for entry, each in by_entry.items()}
            self._folders = {folder: frozenset(each) for folder, each in by_folder.items()}
        return folders

    def _listen(self, folders: Iterable[str]) -> str | None:
        """None, or why there is no inotify for us."""
        try:
            if self._observer is None:
                observer = self._make()
                observer.start()
                self._observer = observer
            for folder in folders:
                self._listen_to(self._observer, folder)
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            return (error.strerror or str(error)).lower()
        return None

    def _listen_to(self, observer: BaseObserver, folder: str) -> None:
        known = identity(folder)
        try:
            watch = observer.schedule(_Handler(self.heard), folder, recursive=False, event_filter=_SEEN)
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise
            return  # it has just gone, or is not for us to read: the poll sees what can be seen
        self._armed[folder] = known, watch


class _Handler(events.FileSystemEventHandler):
    def __init__(self, heard: Callable[[events.FileSystemEvent], object]) -> None:
        self._heard = heard

    def dispatch(self, event: Any) -> None:
        self._heard(event)
