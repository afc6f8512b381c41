"""The composition root: puts the layers together, and gives the command line one object to talk to.

In: `--root`. Out: an `App`. `world` names the drivers, `looking` reads; here is what changes the host or the store, and
the agent. Imports are made where they are needed: looking loads neither the manifest's libraries nor the network's.
"""

from __future__ import annotations

import logging
import os
import resource
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from orchestrator.app.looking import Looking, Outlook
from orchestrator.app.world import World, boot_clock, embedded, probing, resident
from orchestrator.errors import ConflictError, HostError, OrchestratorError
from orchestrator.model.ids import Kind, Ref
from orchestrator.ports.layout import Layout

if TYPE_CHECKING:
    from orchestrator.app.locking import Locks
    from orchestrator.app.roots import Roots
    from orchestrator.app.volumes import Volumes
    from orchestrator.control.events import Event, Following
    from orchestrator.control.probes import Prober
    from orchestrator.control.reconciler import Reconciler
    from orchestrator.control.sources.attending import Sources
    from orchestrator.doctor.facts import HostFacts
    from orchestrator.model.desired import Stack
    from orchestrator.state import events as state_events
    from orchestrator.state.sources import Source
    from orchestrator.state.store import Store
    from orchestrator.state.words import Said, Word

__all__ = ["App", "Outlook", "World", "agent", "boot_clock", "resident"]

# `state.words.Word` -> what is told when it is said, and when it is taken back (`control.chronicle`).
_SAID = {"hold": "held", "restart": "restart", "suspend": "suspended"}
_LIFTED = {"hold": "released", "suspend": "resumed"}


def agent(root: str | None = None) -> None:
    """The agent's process, as the keeper starts it."""
    with open("/proc/self/comm", "w") as comm:
        comm.write("orc-agent")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # it keeps some of each container open
    logging.basicConfig(format="%(asctime)s agent %(levelname)s %(message)s", level=logging.INFO)
    try:
        App.open(root).be_agent()
    except ConflictError as error:
        logging.getLogger(__name__).info("%s", error.message)
    except OrchestratorError as error:  # the keeper tries again, ever more slowly
        logging.getLogger(__name__).error("%s%s", error.message, f" ({error.hint})" if error.hint else "")
        sys.exit(error.exit_code)


class App(Looking):
    """One instance of the orchestrator, opened. Holds no state of its own but connections."""

    @classmethod
    def open(cls, root: str | None = None) -> App:
        """The instance that lives under `root`; None: the machine's main one. Makes nothing."""
        return cls(Layout.at(root), embedded, boot_clock)

    # changing

    def commit(self, stack: Stack, *, prune_data: bool = False, author: str = "") -> int:
        """Make it the newest revision, durable when this returns; its number. `author`: `USER: VERB`. A stack that is new
        here begins without words about an earlier one of its name."""
        from orchestrator.state.blobs import Blobs, kept_documents

        if stack.has_secrets:
            self._secret_key.keep()
        data, digest = self._document(stack)
        sources = sorted({span.file for span in stack.places.values()})
        blobs = Blobs(self.layout.blobs(stack.name))
        with self._open_store() as store, blobs.committing(stack.blobs):
            before = store.mark(stack.name)
            if before is None or before.deleted:
                store.words.forget(stack.name)
            number = store.commit_revision(
                stack.name,
                data,
                digest,
                sources=sources,
                prune_data=prune_data,
                author=author,
            )
            if before is None or before.number != number:
                told = f"{number} by {author or 'somebody'}"
                store.events.append([self._event(stack.name, "revision", told)])
                blobs.collect(kept_documents(store, stack.name))
        return number

    def forget(self, stack: str, *, prune_data: bool = False, author: str = "") -> int:
        """Nothing is wished of the stack any more; the number of the revision that says so."""
        with self._open_store() as store:
            number = store.forget(stack, prune_data=prune_data, author=author, unrecorded=True)
            told = f"{number} by {author or 'somebody'}: nothing is wished any more"
            with suppress(HostError):  # a full disk keeps nobody from deleting
                store.events.append([self._event(stack, "revision", told)])
        return number

    def say(self, stack: str, word: Word, refs: Sequence[Ref | None], *, author: str) -> tuple[Said, ...]:
        """Record what an operator wants of these, or (None) of the whole stack; heeded from the next pass on."""
        from orchestrator.state.words import Said
        from orchestrator.supervisor import facts

        at, since_boot, boot = time.time(), self._clock(), facts.boot_id()
        many = tuple(
            Said(stack=stack, word=word, ref=ref, at=at, since_boot=since_boot, boot=boot, author=author)
            for ref in refs
        )
        with self._open_store() as store:
            store.words.say(*many)
            what = _SAID[word.value]
            store.events.append([self._event(stack, what, f"by {author}", each.ref) for each in many])
        return many

    def lift(self, stack: str, word: Word, refs: Sequence[Ref | None], *, author: str) -> int:
        """Take that back; how many there were."""
        with self._open_store() as store:
            gone = [each for each in refs if store.words.lift(stack, word, each)]
            what = _LIFTED[word.value]
            store.events.append([self._event(stack, what, f"by {author}", each) for each in gone])
        return len(gone)

    def _event(self, stack: str, what: str, text: str, ref: Ref | None = None) -> state_events.Event:
        from orchestrator.state.events import Event

        return Event(at=time.time(), stack=stack, ref=str(ref or ""), what=what, text=text)

    def follow(self, following: Following, *, command: str, once: bool = False) -> Iterator[Event]:
        """Has the agent bring a stack to its newest revision, and tells what happens until an end. `once`, or where no
        agent can be: in this process; `command` is told to others who want the stack meanwhile."""
        resident = self.world.resident
        if resident is not None and not once:
            yield from resident.follow(following)
            return
        from orchestrator.control.loop import follow

        with self._reconciling(command) as (reconciler, prober):
            yield from follow(reconciler, following, prober=prober, ends=self.world.ends)

    def busy(self, stack: str) -> str | None:
        """Who is at work on the stack, for longer than a look takes; None: nobody."""
        from orchestrator.control.reconciler import BRIEFLY
        from orchestrator.state.locks import StackLock

        try:
            with StackLock(self.layout.lock(stack), stack=stack, command="").acquire(
                wait=True, timeout=BRIEFLY
            ):
                return None
        except ConflictError as error:
            return error.message

    @contextmanager
    def _reconciling(self, command: str) -> Iterator[tuple[Reconciler, Prober]]:
        from orchestrator.control.probes import Prober
        from orchestrator.control.reconciler import Reconciler

        with (
            self._open_store() as store,
            ThreadPoolExecutor(self.world.at_once, thread_name_prefix="step") as pool,
            Prober(clock=self._clock, run_command=probing(self.runtime)) as prober,
        ):
            reconciler = Reconciler(
                store=store,
                drivers=self.world.drivers,
                layout=self.layout,
                pool=pool,
                width=self.world.at_once,
                ids=lambda: secrets.token_hex(6),
                clock=self._clock,
                wall=time.time,
                command=command,
            )
            yield reconciler, prober

    @property
    def roots(self) -> Roots:
        """The store of roots. HostError: this world has none."""
        from orchestrator.app.roots import Roots
        from orchestrator.drivers.rootfs.driver import RootfsDriver

        driver = self.world.drivers[Kind.ROOTFS]
        if not isinstance(driver, RootfsDriver):
            raise HostError("there is no store of roots here")
        return Roots(driver)

    @property
    def volumes_here(self) -> Volumes:
        """Those of which there is data. HostError: this world has none."""
        from orchestrator.app.volumes import Volumes
        from orchestrator.drivers.volumes.driver import VolumeDriver

        driver = self.world.drivers[Kind.VOLUME]
        if not isinstance(driver, VolumeDriver):
            raise HostError("there are no volumes here")
        return Volumes(self, driver)

    @property
    def locks(self) -> Locks:
        """What writes lock files. HostError: this world has no images."""
        from orchestrator.app.locking import Locks

        if self.world.images is None:
            raise HostError("there is no store of images here")
        return Locks(self.world.images)

    def examine(self) -> HostFacts:
        """What this host can and cannot do, as far as whoever runs this may see it."""
        from orchestrator.doctor.looking import look

        recorded = agent = False
        with suppress(OSError):
            recorded, agent = bool(self.stacks()), self.agent_status() is not None
        return look(self.layout, pool=os.environ.get("ORCHESTRATOR_POOL"), recorded=recorded, agent=agent)

    # watched sources

    def sources(self) -> tuple[Source, ...]:
        """Those whose watcher lives, and the permanent ones."""
        from orchestrator.control.sources.attending import alive

        return tuple(each for each in self._store.sources.all() if alive(each.holder)) if self._store else ()

    def add_source(self, kind: str, settings: Mapping[str, Any], *, holder: str) -> int:
        """Its number. The agent attends to it when it is nudged."""
        with self._open_store() as store:
            return store.sources.add(kind, settings, holder=holder)

    def remove_source(self, number: int) -> bool:
        """Whether it was there."""
        with self._open_store() as store:
            return store.sources.remove(number)

    @contextmanager
    def attending(self, number: int) -> Iterator[None]:
        """Reads one source in this process, without the agent."""
        with self._open_store() as store:
            sources = self._attendant(store, lambda stack: None, only=number)
            try:
                sources.sync()
                yield
            finally:
                sources.close()

    def _attendant(
        self, store: Store, notify: Callable[[str], object], *, only: int | None = None
    ) -> Sources:
        from orchestrator.control.sources.attending import Changed, Sources, Watching

        def watcher(changed: Changed) -> Watching:
            from orchestrator.control.sources.watching import Watcher

            return Watcher(changed)

        return Sources(self, store, watcher=watcher, notify=notify, only=only)

    # the agent

    @property
    def has_agent(self) -> bool:
        """Whether an agent can keep this instance, running now or not."""
        return self.world.resident is not None

    def ensure_agent(self) -> None:
        """One keeps this instance when this returns; HostError otherwise."""
        if self.world.resident is not None:
            self.world.resident.ensure()

    def leave_to_agent(self, stack: str) -> None:
        """It goes on with the stack; nobody waits here."""
        self.ensure_agent()
        self.nudge(stack)

    def nudge(self, stack: str | None) -> bool:
        """Have the agent look at the stack now (None: at all of them); False: there is none."""
        return self.world.resident is not None and self.world.resident.nudge(stack)

    def agent_status(self) -> Mapping[str, Any] | None:
        """What the agent says of itself and of each stack; None: there is none."""
        return self.world.resident.status() if self.world.resident else None

    def stop_agent(self) -> None:
        """End it, until the next apply; containers go on."""
        if self.world.resident is not None:
            self.world.resident.stop()

    def be_agent(self) -> None:
        """Keep this instance in this process until SIGTERM or SIGINT. ConflictError: somebody does already."""
        from orchestrator.control.agent import Agent, sole
        from orchestrator.supervisor.version import whole

        version = whole()  # of the code that is loaded, before anybody replaces it
        with sole(self.layout), self._reconciling("agent") as (reconciler, prober):
            about = {"version": version, "since": time.time(), "root": self.layout.root}
            agent = Agent(
                reconciler,
                prober=prober,
                ends=self.world.ends,
                stacks=self._all_stacks(reconciler),
                about=about,
            )
            sources = self._attendant(reconciler.store, lambda stack: agent.post(lambda: agent.nudge(stack)))
            agent.attend(sources)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: agent.stop())
            try:
                agent.run()
            finally:
                sources.close()

    def _all_stacks(self, reconciler: Reconciler) -> Callable[[], frozenset[str]]:
        return lambda: frozenset(reconciler.store.stacks()).union(*(each.stacks() for each in self.drivers))
