"""`watch`: a source in the store, and what is seen of it while the agent reads it again and again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from orchestrator.app import App
from orchestrator.cli.commands import manifests
from orchestrator.cli.commands.ending import Ended, outcome
from orchestrator.control import prune
from orchestrator.control.events import Event, Following, Interrupted
from orchestrator.control.reading import Read
from orchestrator.control.sources.attending import holder
from orchestrator.control.sources.files import KIND, Settings, variables
from orchestrator.errors import UsageError
from orchestrator.ports.images import Watch as Fetched
from orchestrator.state.sources import Source

LOOK_EVERY = 0.02  # seconds between looks into the store


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`keep`: watched when the command has ended, too. `once`: read and executed in this process, without the agent.
    `timeout`: seconds until it stops telling of one change. `cancelled`: asked all the time."""

    keep: bool
    once: bool
    timeout: float
    cancelled: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The source was read once more. `changed`: the files that were seen to change; `troubles`: as `sources.files.Trouble`;
    `stacks`: those to be followed now; `left`: those that have just ceased to be written; `polling`: why there is no
    inotify."""

    changed: tuple[str, ...]
    troubles: tuple[Mapping[str, Any], ...]
    stacks: tuple[str, ...]
    left: tuple[str, ...]
    polling: str | None


def read(app: App, paths: Sequence[str], env_files: Sequence[str], fetch: Fetched) -> Read:
    """Manifests as they are when watching begins; raises what `apply` would."""
    if "-" in paths:
        raise UsageError("standard input cannot be watched", hint="write it to a file")
    found = manifests.read(app, paths, env_files)
    manifests.check(app, found)
    found = manifests.rooted(app, found, fetch)
    for stack in found.stacks:
        prune.guard(stack, app.observe_containers(stack.name))
    return found


def begin(app: App, paths: Sequence[str], env_files: Sequence[str], found: Read, options: Options) -> int:
    """Has them watched from now on: the number of the source."""
    here = options.once or not app.has_agent
    if options.keep and here:
        raise UsageError("--keep needs the agent", hint="leave out --once")
    settings = Settings(
        paths=tuple(paths),
        env_files=tuple(env_files),
        folder=os.getcwd(),  # noqa: PTH109
        variables=variables(found, os.environ),
        here=here,
    )
    if options.keep:
        for each in app.sources():
            if not each.holder and _settings(each).places == settings.places:
                app.remove_source(each.number)
    number = app.add_source(KIND, settings.encode(), holder="" if options.keep else holder(os.getpid()))
    if not here:
        app.ensure_agent()
        app.nudge(None)
    return number


def attending(app: App, number: int, options: Options) -> AbstractContextManager[None]:
    """While it lasts the source is read: by the agent, or by us."""
    return app.attending(number) if options.once or not app.has_agent else nullcontext()


def remove(app: App, what: str) -> tuple[Source, ...]:
    """Ends the watching of source number `what`, or of all whose path that is; those that were."""
    place = os.path.abspath(what)  # noqa: PTH100
    found = [
        each
        for each in app.sources()
        if what == str(each.number) or place in _settings(each).absolute(_settings(each).paths)
    ]
    if not found:
        raise UsageError(f"no source is {what!r}", hint="see `orchestrator watch --list`")
    for each in found:
        app.remove_source(each.number)
    app.nudge(None)
    return tuple(found)


def _settings(source: Source) -> Settings:
    return Settings.of(source.settings)


class Watch:
    """One source, as its command sees it. `removed`: somebody else ended it."""

    def __init__(self, app: App, number: int, options: Options) -> None:
        self._app, self._number, self._options = app, number, options
        self._source: Source | None = None
        self._seen = 0
        self._asked = 0.0
        self._followed: dict[str, int] = {}  # stack -> the revision that was followed to its end
        self._state: Mapping[str, Any] = {}
        self.removed = False

    def looks(self) -> Iterator[Look]:
        """Each reading, until somebody cancels, or removes the source."""
        while not self._options.cancelled() and not self.removed:
            if self._moved():
                yield self._look()
            else:
                time.sleep(LOOK_EVERY)

    def follow(self, stack: str) -> Iterator[Event]:
        """What happens to the stack because of the last reading, until an end or the next reading."""
        revision = self._state["stacks"][stack]["revision"]
        following = Following(
            name=stack, revision=revision, timeout=self._options.timeout, cancelled=self._elsewhere
        )
        last: Event | None = None
        for last in self._app.follow(following, command=f"watch {stack}", once=self._options.once):
            yield last
        if not isinstance(last, Interrupted):
            self._followed[stack] = revision

    def ended(self, stack: str, last: Event | None) -> Ended | None:
        """None: there is something newer to be told first."""
        if isinstance(last, Interrupted) and not self._options.cancelled():
            return None
        return outcome(self._app, stack, last)

    def _elsewhere(self) -> bool:
        return self._options.cancelled() or self._moved() or self.removed

    def _moved(self) -> bool:
        """Whether there is a reading that was not told; asks the store seldom."""
        now = time.monotonic()
        if now - self._asked >= LOOK_EVERY:
            self._asked = now
            found = [each for each in self._app.sources() if each.number == self._number]
            self.removed = not found
            self._source = found[0] if found else self._source
        return self._source is not None and self._source.state.get("look", 0) != self._seen

    def _look(self) -> Look:
        assert self._source is not None
        state, before = self._source.state, self._state
        self._state, self._seen = state, state["look"]
        return Look(
            changed=tuple(state["changed"]),
            troubles=tuple(state["troubles"]),
            stacks=tuple(
                name for name, each in state["stacks"].items() if self._followed.get(name) != each["revision"]
            ),
            left=tuple(each for each in state["left"] if each not in before.get("left", [])),
            polling=state["polling"],
        )
