"""Probes all containers: http and tcp on one thread (`probing`), commands in a small pool.

In: the targets of each stack, replaced as a whole whenever the stack was looked at. Out: published health files, and
changes to be drained, announced on a descriptor. It decides nothing about containers.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from orchestrator.control import health
from orchestrator.control.attempts import Verdict
from orchestrator.control.probing import GAP, Probing
from orchestrator.control.probing import HealthChange as HealthChange
from orchestrator.control.tracking import Target, Track
from orchestrator.model.desired import CommandProbe
from orchestrator.model.ids import Incarnation, Kind
from orchestrator.model.observed import Observed
from orchestrator.ports.layout import Layout

COMMANDS_AT_ONCE = 8

RunCommand = Callable[[Target, CommandProbe], Verdict | None]  # None: it could not be asked


def targets(stack: str, observed: Observed, layout: Layout) -> list[Target]:
    """What is to be probed: running containers that were applied with `health`."""
    groups = {each.ref.name: each for each in observed if each.ref.kind is Kind.GROUP}
    found = []
    for each in observed:
        probe = health.wanted(each)
        if probe is None or each.started is None:
            continue
        group = groups.get(each.ref.name.partition("/")[0])
        addresses = each.addresses or (group.addresses if group else {})
        inside = probe.inside and group is not None
        found.append(
            Target(
                incarnation=Incarnation(stack, each.ref, each.id),
                probe=probe,
                address="127.0.0.1" if inside else next(iter(addresses.values()), None),
                netns=os.fspath(layout.group_run(group.id) / "net") if inside and group else None,
                started=each.started,
                env=each.applied.get("env", {}),
                file=health.path(layout, each.id),
            )
        )
    return found


class Prober:
    """Use as a context manager. `fileno()` is readable while changes wait. `clock`: CLOCK_BOOTTIME seconds."""

    def __init__(self, *, clock: Callable[[], float], run_command: RunCommand) -> None:
        self.clock = clock
        self.run_command = run_command
        self._changes: SimpleQueue[HealthChange] = SimpleQueue()
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()  # run on the probing thread
        self._announce = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poke = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop = Probing(clock, self._command, self._changed)
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)
        self._pool = ThreadPoolExecutor(COMMANDS_AT_ONCE, thread_name_prefix="probe")
        self._ending = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        self._wake()
        self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        os.close(self._announce)
        os.close(self._poke)

    def watch(self, stack: str, targets: Iterable[Target]) -> None:
        """From now on exactly these of the stack; a target that is watched already keeps its counts."""
        chosen = list(targets)
        self._inbox.put(lambda: self._loop.replace(stack, chosen))
        self._wake()

    def fileno(self) -> int:
        return self._announce

    def drain(self) -> list[HealthChange]:
        """The changes since the last call, oldest first."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._announce)
        found = []
        with contextlib.suppress(Empty):
            while True:
                found.append(self._changes.get_nowait())
        return found

    def _wake(self) -> None:
        os.eventfd_write(self._poke, 1)

    # on the probing thread

    def _run(self) -> None:
        self._loop.watch_poke(self._poke)
        while not self._ending:
            self._loop.turn()
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._poke)
            with contextlib.suppress(Empty):
                while True:
                    self._inbox.get_nowait()()
        self._loop.close()

    def _changed(self, change: HealthChange) -> None:
        self._changes.put(change)
        os.eventfd_write(self._announce, 1)

    def _command(self, track: Track, probe: CommandProbe) -> None:
        """Runs it in the pool, first come, first served; the verdict comes back through the inbox, and only then is the
        next one planned: a slow command is never behind itself."""

        def work() -> None:
            began = self.clock()
            try:
                verdict = self.run_command(track.target, probe)
            except OSError:  # out of descriptors
                verdict = None
            except Exception as error:  # whatever goes wrong there is a failed probe, never a dead prober
                verdict = Verdict(False, str(error))
            if verdict and not verdict.ok and self.clock() - began > track.target.probe.timeout + GAP:
                verdict = None  # it was not the command alone that had no time
            if not self._ending:
                self._inbox.put(lambda: self._loop.finish(track, verdict))
                self._wake()

        self._pool.submit(work)
