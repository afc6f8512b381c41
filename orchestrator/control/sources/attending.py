"""Sources of the store, each read again whenever its files change: what it gives becomes a revision.

In: rows of `state.sources`, changed files. Out: revisions, the names of stacks to look at, what was found as the source's
state and as events. A source that cannot be read changes nothing: the last good revision stays. All of it on one thread of
its own, so that there is at most one reading, and one to come, however often files change.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

from orchestrator.control import prune
from orchestrator.control.reading import Reader
from orchestrator.control.sources import files
from orchestrator.control.sources.files import Found, Settings, Trouble
from orchestrator.control.sources.places import Places
from orchestrator.errors import OrchestratorError, UsageError
from orchestrator.model.desired import Stack
from orchestrator.model.observed import Observed
from orchestrator.state import document
from orchestrator.state.events import Event
from orchestrator.state.sources import Source
from orchestrator.state.store import Store
from orchestrator.supervisor.facts import boot_id, start_ticks, zombie_status

log = logging.getLogger(__name__)

HOLDERS = 2.0  # seconds between looks whether those who watch still live
AGAIN = 5.0  # seconds until a reading that failed for reasons of ours is tried again
FOLLOWERS = (
    0.2  # seconds for a command that watches to follow a stack (which has it looked at) before we say so
)
UNSTABLE = 5  # readings in a row that files change under
STORM = 1.0  # seconds of patience after that
AUTHOR = "agent: watch"  # of the revisions that come from a source


class Application(Reader, Protocol):
    """What a source's stacks need beyond reading."""

    def observe_containers(self, stack: str) -> Observed: ...

    def commit(self, stack: Stack, *, author: str = "") -> int: ...


class Watching(Protocol):
    """As `watching.Watcher`."""

    exhausted: str | None

    def set(self, number: int, places: Places) -> None: ...

    def drop(self, number: int) -> None: ...

    def close(self) -> None: ...


Changed = Callable[[int, frozenset[str]], object]


@dataclass(slots=True)
class _Attended:
    """`held`: a command lives that follows it. `known`: the fingerprint of what was read last."""

    settings: Settings
    places: Places
    state: dict[str, Any]
    held: bool
    known: str = ""


@dataclass(slots=True)
class _Work:
    """What is to be done, whatever says so how often. `due`: source -> paths that changed."""

    sync: bool = False
    due: dict[int, frozenset[str]] = field(default_factory=dict)
    closed: bool = False


class Sources:
    """`watcher` makes who says which source has changed; `notify` is told each stack that has a new revision. `only`:
    attend to this one, which its command reads itself; None: to all others."""

    def __init__(
        self,
        app: Application,
        store: Store,
        *,
        watcher: Callable[[Changed], Watching],
        notify: Callable[[str], object],
        only: int | None = None,
    ) -> None:
        self._app = app
        self._store = store
        self._make_watcher = watcher
        self._notify = notify
        self._only = only
        self._attended: dict[int, _Attended] = {}
        self._watcher: Watching | None = None
        self._work = _Work()
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="sources", daemon=True)
        self._thread.start()

    def sync(self) -> None:
        """Take in what the store says of sources now. Returns at once."""
        with self._wake:
            self._work.sync = True
            self._wake.notify()

    def changed(self, number: int, paths: frozenset[str] = frozenset()) -> None:
        """Read the source again. Returns at once."""
        with self._wake:
            self._work.due[number] = self._work.due.get(number, frozenset()) | paths
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._work.closed = True
            self._wake.notify()
        self._thread.join()
        if self._watcher is not None:
            self._watcher.close()

    # the thread

    def _run(self) -> None:
        while not (work := self._next()).closed:
            try:
                if work.sync:
                    self._sync()
                for number, paths in work.due.items():
                    self._look(number, paths)
            except Exception as error:  # whatever is wrong with one, the others are attended to
                if isinstance(error, OrchestratorError):
                    log.error("sources: %s", error.message)
                else:
                    log.exception("sources")
                self._later(work)

    def _next(self) -> _Work:
        with self._wake:
            if not (self._work.sync or self._work.due or self._work.closed):
                self._wake.wait(HOLDERS if self._attended else None)
            work, self._work = self._work, _Work(closed=self._work.closed)
            work.sync = work.sync or not work.due
            return work

    def _later(self, work: _Work) -> None:
        def again() -> None:
            self.sync()
            for number, paths in work.due.items():
                self.changed(number, paths)

        self._after(AGAIN, again)

    @staticmethod
    def _after(seconds: float, action: Callable[[], object]) -> None:
        if not seconds:
            action()
            return
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()

    def _sync(self) -> None:
        rows = {}
        for each in self._store.sources.all():
            if not alive(each.holder):
                self._store.sources.remove(each.number)
            elif self._ours(each):
                rows[each.number] = each
        for number in self._attended.keys() - rows.keys():
            del self._attended[number]
            if self._watcher is not None:
                self._watcher.drop(number)
        for number in rows.keys() - self._attended.keys():
            row = rows[number]
            settings = Settings.of(row.settings)
            self._attended[number] = _Attended(settings, settings.places, dict(row.state), bool(row.holder))
            self._watch().set(number, settings.places)
            self.changed(number)

    def _ours(self, source: Source) -> bool:
        if source.kind != files.KIND:
            return False
        return not source.settings["here"] if self._only is None else source.number == self._only

    def _watch(self) -> Watching:
        if self._watcher is None:
            self._watcher = self._make_watcher(self.changed)
        return self._watcher

    def _look(self, number: int, paths: frozenset[str]) -> None:
        attended = self._attended.get(number)
        if attended is None:
            return
        read = self._read(number, attended)
        if read is None:
            return
        found, known = read
        before = attended.state
        state = self._taken(found, before)
        state["look"] = before.get("look", 0) + 1
        state["changed"] = sorted(paths)
        state["polling"] = self._watch().exhausted
        self._store.events.append(_events(attended.settings, before, state, self._store.clock()))
        self._store.sources.note(number, state)
        attended.state, attended.known = state, known
        for name, stack in state["stacks"].items():
            if stack != before.get("stacks", {}).get(name):
                self._after(FOLLOWERS if attended.held else 0.0, partial(self._notify, name))

    def _read(self, number: int, attended: _Attended) -> tuple[Found, str] | None:
        """What the files say, when they held the same before and afterwards, with their fingerprint; None: they hold
        what was read before, or do not keep still."""
        for _ in range(UNSTABLE):
            before = attended.places.fingerprint()
            if before == attended.known:
                return None
            found = files.read(self._app, attended.settings)
            # A broken manifest does not name all that the good one needs.
            wanted = found.places | attended.places if found.failed else found.places
            same = wanted == attended.places
            attended.places = wanted
            self._watch().set(number, wanted)
            if same and wanted.fingerprint() == before:
                return found, before
        self._after(STORM, partial(self.changed, number))
        return None

    def _taken(self, found: Found, before: Mapping[str, Any]) -> dict[str, Any]:
        """Commits what differs from what this source gave before; the state of the source afterwards."""
        stacks: dict[str, Any] = dict(before.get("stacks", {}))
        troubles = list(found.troubles)
        for stack in found.stacks:
            digest = document.digest(document.encode(stack))
            if stacks.get(stack.name, {}).get("digest") == digest:
                continue
            refusal = self._refusal(stack)
            if refusal:
                troubles.append(refusal)
            else:
                stacks[stack.name] = {"digest": digest, "revision": self._app.commit(stack, author=AUTHOR)}
        left = {name for name in before.get("left", []) if self._store.latest(name)}
        if not found.failed:
            gone = stacks.keys() - {each.name for each in found.stacks}
            left = left - {each.name for each in found.stacks} | gone
            stacks = {name: each for name, each in stacks.items() if name not in gone}
        return {"stacks": stacks, "left": sorted(left), "troubles": [asdict(each) for each in troubles]}

    def _refusal(self, stack: Stack) -> Trouble | None:
        try:
            prune.guard(stack, self._app.observe_containers(stack.name))
        except UsageError as error:
            return files.trouble(error, hint="if that is meant, apply it once by hand with --allow-prune")
        return None


def holder(pid: int) -> str:
    """Names the process for as long as it lives: a pid alone would name others later."""
    return f"{pid} {start_ticks(pid)} {boot_id()}"


def alive(holder: str) -> bool:
    """Whether the process that a source is watched for lives; a permanent one needs none."""
    if not holder:
        return True
    pid, ticks, boot = holder.split()
    number, started = int(pid), int(ticks)
    return boot == boot_id() and start_ticks(number) == started and zombie_status(number, started) is None


def _events(
    settings: Settings, before: Mapping[str, Any], now: Mapping[str, Any], at: float
) -> Sequence[Event]:
    """An error is an event once, and so is its end; a stack that is no longer written, too."""
    old, new = _errors(before), _errors(now)
    name = next(iter(now["stacks"]), "") if len(now["stacks"]) == 1 else ""
    found = []
    if new and new != old:
        more = f" (and {len(new) - 1} more)" if len(new) > 1 else ""
        found.append(Event(at=at, stack=name, ref="", what="source-error", text=f"{new[0]}{more}"))
    if old and not new:
        text = f"{', '.join(settings.paths)} can be read again"
        found.append(Event(at=at, stack=name, ref="", what="source-mended", text=text))
    for stack in now["left"]:
        if stack not in before.get("left", []):
            text = f"not written in {', '.join(settings.paths)} any more; it stays"
            found.append(Event(at=at, stack=stack, ref="", what="source-left", text=text))
    return found


def _errors(state: Mapping[str, Any]) -> list[str]:
    return [
        f"{each['file']}:{each['line']}: {each['message']}" if each["file"] else each["message"]
        for each in state.get("troubles", [])
        if each["severity"] == "error"
    ]
