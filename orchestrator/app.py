"""The composition root: the only place that names concrete drivers and puts the layers together.

In: `--root`. Out: an `App`, the one object that the command line talks to. Imports are made where they are needed, so that
looking at what runs loads neither the manifest's libraries nor the network's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConflictError, HostError, OrchestratorError
from orchestrator.model.ids import Kind, Ref
from orchestrator.ports.layout import Layout

if TYPE_CHECKING:
    from orchestrator.control.events import Event, Following
    from orchestrator.control.loop import Ends
    from orchestrator.control.orders import Orders
    from orchestrator.control.outcome import Outcome
    from orchestrator.control.probes import Prober, RunCommand
    from orchestrator.control.reconciler import Reconciler
    from orchestrator.control.resident import Resident
    from orchestrator.control.sources.attending import Sources
    from orchestrator.control.tracking import Target
    from orchestrator.diagnostics import Diagnostic
    from orchestrator.doctor.facts import HostFacts
    from orchestrator.drivers.secrets import SecretKey
    from orchestrator.manifest.load import Loaded, Manifest
    from orchestrator.model.desired import CommandProbe, Stack
    from orchestrator.model.observed import Observation, Observed
    from orchestrator.plan.changes import Plan, Policy
    from orchestrator.ports.driver import Driver, Problem, Runtime
    from orchestrator.state import events as state_events
    from orchestrator.state.sources import Source
    from orchestrator.state.store import Mark, Store
    from orchestrator.state.words import Said, Word

PROBE_OUTPUT = 1024

# `state.words.Word` -> what is told when it is said, and when it is taken back (`control.chronicle`).
_SAID = {"hold": "held", "restart": "restart", "suspend": "suspended"}
_LIFTED = {"hold": "released", "suspend": "resumed"}
TIMED_OUT = 124  # `Runtime.exec`


def boot_clock() -> float:
    """Seconds since boot, suspend included (CLOCK_BOOTTIME, clock_gettime(2)): the time of exits and back-off."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What an App acts on: a driver of every kind, the one that runs containers, who tells of ended processes, and the
    agent that keeps all this (None: there can be none, everything is done in this process).

    `at_once`: driver calls in flight; most of a start is waiting for the supervisor and the kernel.
    """

    drivers: Mapping[Kind, Driver]
    runtime: Runtime
    ends: Ends | None = None
    resident: Resident | None = None
    at_once: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A look at a stack: what is there, what would be done now, and, where that is nothing, what it amounts to."""

    observed: Observed
    plan: Plan
    outcome: Outcome


def embedded(layout: Layout) -> World:
    """The world of this machine: namespaces, cgroups, overlays and one nftables table."""
    from orchestrator.drivers.embedded.driver import EmbeddedDriver
    from orchestrator.drivers.network.driver import NetworkDriver
    from orchestrator.drivers.rootfs.driver import RootfsDriver
    from orchestrator.drivers.volumes import VolumeDriver
    from orchestrator.supervisor.client import Supervisor

    roots, volumes = RootfsDriver(layout), VolumeDriver(layout)
    supervisor = Supervisor(layout)
    network = NetworkDriver(layout, holder=supervisor, pool=os.environ.get("ORCHESTRATOR_POOL"))
    runtime = EmbeddedDriver(layout, supervisor, roots=roots, volumes=volumes, network=network)
    found: tuple[Driver, ...] = (runtime, roots, volumes, network)
    return World(
        drivers={kind: each for each in found for kind in each.kinds},
        runtime=runtime,
        ends=supervisor,
        resident=resident(layout),
    )


# Isolated (-I): nothing of the environment or folder of whoever calls decides what code the agent is.
_AGENT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from orchestrator.app import agent; agent(*sys.argv[2:])"
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def resident(layout: Layout) -> Resident:
    """How the agent of this instance is started and asked."""
    from orchestrator.control.resident import Resident
    from orchestrator.supervisor.version import whole

    library = os.fspath(Path(__file__).parent.parent)
    kept = {name: os.environ[name] for name in ("ORCHESTRATOR_POOL",) if name in os.environ}
    return Resident(
        layout=layout,
        command=(sys.executable, "-I", "-X", "utf8", "-c", _AGENT, library, *filter(None, [layout.root])),
        env={"PATH": _PATH, **kept},
        version=whole(),
    )


def agent(root: str | None = None) -> None:
    """The agent's process, as the keeper starts it."""
    with open("/proc/self/comm", "w") as comm:
        comm.write("orc-agent")
    logging.basicConfig(format="%(asctime)s agent %(levelname)s %(message)s", level=logging.INFO)
    try:
        App.open(root).be_agent()
    except ConflictError as error:
        logging.getLogger(__name__).info("%s", error.message)
    except OrchestratorError as error:  # the keeper tries again, ever more slowly
        logging.getLogger(__name__).error("%s%s", error.message, f" ({error.hint})" if error.hint else "")
        sys.exit(error.exit_code)


class App:
    """One instance of the orchestrator, opened. Holds no state of its own but connections."""

    def __init__(self, layout: Layout, world: Callable[[Layout], World], clock: Callable[[], float]) -> None:
        self.layout = layout
        self._make_world = world
        self._clock = clock
        self._looked_into: Store | None = None

    @classmethod
    def open(cls, root: str | None = None) -> App:
        """The instance that lives under `root`; None: the machine's main one. Makes nothing."""
        return cls(Layout.at(root), embedded, boot_clock)

    # text

    def load(
        self, paths: Sequence[str], env_files: Sequence[str], environ: Mapping[str, str], stdin: str | None
    ) -> Loaded:
        """The manifests in `paths`. `environ` wins over `env_files`, a later one over an earlier."""
        from orchestrator.manifest.envfile import read_env
        from orchestrator.manifest.load import load

        variables: dict[str, str] = {}
        for each in env_files:
            variables |= read_env(each)
        return load(paths, {**variables, **environ}, stdin=stdin)

    def resolve(self, manifest: Manifest) -> tuple[Stack | None, Sequence[Diagnostic]]:
        from orchestrator.resolve.resolver import resolve

        return resolve(manifest, self._secret_key.digest)

    def cycles(self, stack: Stack) -> Sequence[Diagnostic]:
        from orchestrator.graph.dependency import cycles

        return cycles(stack)

    def schema(self) -> str:
        """The JSON Schema of stack files, as the repository keeps it."""
        from orchestrator.manifest.jsonschema import text

        return text()

    # looking

    @cached_property
    def world(self) -> World:
        return self._make_world(self.layout)

    @property
    def runtime(self) -> Runtime:
        return self.world.runtime

    @property
    def drivers(self) -> tuple[Driver, ...]:
        """Each driver once."""
        return tuple({id(each): each for each in self.world.drivers.values()}.values())

    def stacks(self) -> frozenset[str]:
        """The stacks that are wished for, and those of which anything is there."""
        wished = self._store.stacks() if self._store else ()
        return frozenset(wished).union(*(each.stacks() for each in self.drivers))

    def revision(self, stack: str) -> int | None:
        """The number of the newest revision; None: it was deleted or never applied here."""
        found = self._store.mark(stack) if self._store else None
        return found.number if found and not found.deleted else None

    def recorded(self, stack: str) -> Stack | None:
        """What the newest revision wishes."""
        from orchestrator.state import document

        found = self._store.latest(stack) if self._store else None
        return document.decode(found.document) if found else None

    def recorded_as(self, stack: Stack) -> bool:
        """Whether the newest revision wishes just this."""
        from orchestrator.state import document

        mark = self._store.mark(stack.name) if self._store else None
        return mark is not None and mark.digest == document.digest(document.encode(stack))

    def wished(self, stack: str) -> tuple[Ref, ...]:
        """The containers of the newest revision."""
        found = self.recorded(stack)
        return tuple(ref for ref in found.resources if ref.kind is Kind.CONTAINER) if found else ()

    def revisions(self, stack: str, *, limit: int) -> tuple[Mark, ...]:
        """The newest ones, newest first, deletions too."""
        return self._store.history(stack, limit=limit) if self._store else ()

    def revised(self, stack: str, number: int) -> Stack | None:
        """What one revision wishes; None: nothing."""
        from orchestrator.state import document

        found = self._store.revision(stack, number) if self._store else None
        return document.decode(found.document) if found else None

    def events(
        self, stack: str | None = None, *, after: int = 0, since: float = 0.0, limit: int = 100
    ) -> tuple[state_events.Event, ...]:
        """The last ones after that number and that time, oldest first; None: of all stacks."""
        found = self._store
        return found.events.read(stack, after=after, since=since, limit=limit) if found else ()

    def last_event(self) -> int:
        """The number of the newest one; cheap."""
        return self._store.events.last() if self._store else 0

    def observe(self, stack: str) -> Observed:
        """Everything of the stack."""
        return self._with_health(self.drivers, stack)

    def observe_containers(self, stack: str) -> Observed:
        """Its groups and containers, without looking whether anything of them was changed behind our back."""
        from orchestrator.control import health

        return health.merge(tuple(self.runtime.glance(stack)), self.layout, self._clock())

    def volumes(self, stack: str) -> tuple[Ref, ...]:
        """Those of which there is data."""
        return tuple(
            sorted(
                {
                    each.ref
                    for each in self.world.drivers[Kind.VOLUME].observe(stack)
                    if each.ref.kind is Kind.VOLUME
                }
            )
        )

    def _with_health(self, drivers: Sequence[Driver], stack: str) -> Observed:
        from orchestrator.control import health

        found = tuple(observation for each in drivers for observation in each.observe(stack))
        return health.merge(found, self.layout, self._clock())

    def given_up(self, container: Observation) -> str | None:
        """Why a container that has ended is not started any more, in words; None: it runs, is well, or will be started."""
        from orchestrator.model import codec
        from orchestrator.model.desired import ContainerSpec
        from orchestrator.model.observed import Phase
        from orchestrator.plan import restarts

        last = container.exits[-1] if container.exits else None
        if container.phase is not Phase.EXITED or last is None or last.success or last.forgiven:
            return None
        spec = codec.decode(ContainerSpec, container.applied)
        return restarts.decide(spec, container, self._clock()).failure

    def check(self, stack: Stack) -> tuple[Problem, ...]:
        """What this host cannot do of the stack."""
        return tuple(problem for each in self.drivers for problem in each.check(stack))

    def plan(self, stack: Stack, policy: Policy) -> Plan:
        """What an apply would do now, were the stack not suspended."""
        return self._plan(stack, self.observe(stack.name), policy)

    def outlook(self, stack: Stack) -> Outlook:
        """How the stack stands, if this is what is wished."""
        from orchestrator.control.outcome import judge
        from orchestrator.plan.changes import Policy

        observed = self.observe(stack.name)
        plan = self._plan(stack, observed, Policy())
        return Outlook(observed=observed, plan=plan, outcome=judge(stack, plan, observed, self._clock()))

    def _plan(self, stack: Stack, observed: Observed, policy: Policy) -> Plan:
        from orchestrator.control import neighbours
        from orchestrator.plan.planner import plan

        policy = self.orders(stack.name, observed).policy(policy)
        policy = neighbours.aware(policy, stack.name, stack, observed, self.world.drivers)
        return plan(stack, observed, policy, self._clock(), name=stack.name)

    def borrowed(self, name: str, stack: Stack | None, *, prune_data: bool) -> Mapping[Ref, tuple[str, ...]]:
        """What other stacks use of that which the stack would lose with this wish, and which they are."""
        from orchestrator.control import neighbours

        drivers = [each for each in self.drivers if each.kinds & neighbours.LENT]
        doomed = neighbours.doomed(stack, self._with_health(drivers, name), prune_data=prune_data)
        return neighbours.borrowed(name, doomed, self.world.drivers)

    def orders(self, stack: str, observed: Observed) -> Orders:
        """What operators have said of the stack."""
        from orchestrator.control import orders
        from orchestrator.supervisor import facts

        words = self._store.words.of(stack) if self._store else ()
        return orders.read(words, observed, boot=facts.boot_id())

    # changing

    def commit(self, stack: Stack, *, prune_data: bool = False, author: str = "") -> int:
        """Make it the newest revision, durable when this returns; its number. `author`: `USER: VERB`. A stack that is new
        here begins without words about an earlier one of its name."""
        from orchestrator.state import document
        from orchestrator.state.blobs import Blobs, kept_documents

        if stack.has_secrets:
            self._secret_key.keep()
        data = document.encode(stack)
        sources = sorted({span.file for span in stack.places.values()})
        blobs = Blobs(self.layout.blobs(stack.name))
        with self._open_store() as store, blobs.committing(stack.blobs):
            before = store.mark(stack.name)
            if before is None or before.deleted:
                store.words.forget(stack.name)
            number = store.commit_revision(
                stack.name,
                data,
                document.digest(data),
                sources=sources,
                prune_data=prune_data,
                author=author,
            )
            if before is None or before.number != number:
                store.events.append([self._event(stack.name, "revision", f"{number} by {author}")])
            blobs.collect(kept_documents(store, stack.name))
        return number

    def forget(self, stack: str, *, prune_data: bool = False, author: str = "") -> int:
        """Nothing is wished of the stack any more; the number of the revision that says so."""
        with self._open_store() as store:
            number = store.forget(stack, prune_data=prune_data, author=author, unrecorded=True)
            with suppress(HostError):  # a full disk keeps nobody from deleting
                store.events.append(
                    [self._event(stack, "revision", f"{number} by {author}: nothing is wished any more")]
                )
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

    def examine(self) -> HostFacts:
        """What this host can and cannot do, as far as whoever runs this may see it."""
        from orchestrator.doctor.looking import look

        recorded = agent = False
        with contextlib.suppress(OSError):
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

    @cached_property
    def _secret_key(self) -> SecretKey:
        from orchestrator.drivers.secrets import SecretKey

        return SecretKey(self.layout)

    def _open_store(self) -> Store:
        from orchestrator.state.store import Store

        return Store(self.layout.database, clock=time.time)

    @property
    def _store(self) -> Store | None:
        """History; None where nothing was ever applied: looking makes no database."""
        if self._looked_into is None and self.layout.database.exists():
            self._looked_into = self._open_store()
        return self._looked_into


def probing(runtime: Runtime) -> RunCommand:
    """Runs command probes in their containers: exit code 0 is healthy; what it prints is the explanation."""
    from orchestrator.control.attempts import OURS, Verdict

    def run(target: Target, probe: CommandProbe) -> Verdict | None:
        from orchestrator.errors import OrchestratorError, StepError
        from orchestrator.ports.driver import ExecRequest

        request = ExecRequest(command=probe.command, env=target.env)
        output, limit, began = bytearray(), target.probe.timeout, time.monotonic()
        with open(os.devnull, "rb", buffering=0) as null:
            reading, writing = os.pipe()
            reader = threading.Thread(target=_keep_first, args=(reading, output), daemon=True)
            reader.start()
            try:
                code = runtime.exec(target.incarnation, request, (null.fileno(), writing, writing), limit)
            except StepError as error:
                return None if error.errno in OURS else Verdict(False, error.message)
            except OrchestratorError:
                return None  # no supervisor, or the container has ended: nothing is known of its health
            finally:
                os.close(writing)
        reader.join(0.2)  # what the command left behind may hold the pipe for longer
        said = bytes(output).decode(errors="replace").strip()
        if code == TIMED_OUT and time.monotonic() - began >= limit:
            said = f"no end in {limit:g} s{f': {said}' if said else ''}"
        return Verdict(code == 0, said or f"exit {code}")

    return run


def _keep_first(reading: int, output: bytearray) -> None:
    """Reads to the end, so that nobody blocks; keeps the beginning."""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while chunk := pipe.read(65536):
            output += chunk[: PROBE_OUTPUT - len(output)]
