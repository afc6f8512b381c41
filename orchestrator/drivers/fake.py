"""A verified fake: every kind of resource in memory, with the semantics that the contract suite asks of every driver.

In: the driver protocol, a clock. Out: observations of an invented world. Its processes understand a few commands (sleep,
true, false, sh -c "exit N"); failures and crashes can be planted at any call. It touches nothing outside itself.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.errors import StepError
from orchestrator.model import codec
from orchestrator.model.desired import ContainerSpec, Limits, Need, Spec, Stack
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import EDITED, Exit, Health, Observation, Phase
from orchestrator.ports.driver import Bound, Problem

KEPT = 16


class Crash(BaseException):
    """The process died here: not an error that anybody handles."""


@dataclass
class Thing:
    """One incarnation in the invented world."""

    target: Incarnation
    spec: Spec | None = None
    needs: tuple[Need, ...] = ()
    phase: Phase = Phase.INCOMPLETE
    health: Health = Health.NONE
    said: str = ""
    since: float | None = None
    actual: dict[str, Any] = field(default_factory=dict)
    exits: tuple[Exit, ...] = ()
    starts: int = 0
    pid: int | None = None
    started: float | None = None
    edited: float | None = None
    damage: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    def observation(self) -> Observation:
        return Observation(
            ref=self.target.ref,
            id=self.target.id,
            phase=self.phase,
            applied=codec.encode(self.spec) if self.spec else {},
            health=self.health,
            said=self.said,
            since=self.since,
            actual=dict(self.actual),
            needs=self.needs,
            exits=self.exits,
            restarts=max(0, self.starts - 1),
            pid=self.pid,
            started=self.started,
            edited=self.edited,
            damage=self.damage,
            broken=self.broken,
            addresses={"default": "10.0.0.2"} if self.target.ref.kind is Kind.CONTAINER else {},
        )


Call = tuple[str, Ref]  # ("start", ref)


class FakeDriver:
    """`trace` lists completed calls. `failures`: call -> errors still to be raised. `crash_at`: the number of the boundary
    (one before and one after the effect of each call, from 1) at which `Crash` is raised."""

    kinds = frozenset(Kind)

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.things: dict[Incarnation, Thing] = {}
        self.trace: list[Call] = []
        self.failures: dict[Call, list[StepError]] = {}
        self.crash_at: int | None = None
        self.boundaries = 0
        self._pids = 1000
        self._lock = threading.RLock()

    # the driver protocol

    def stacks(self) -> frozenset[str]:
        return frozenset(target.stack for target in self.things)

    def check(self, stack: Stack) -> Sequence[Problem]:
        return ()

    def observe(self, stack: str) -> Sequence[Observation]:
        with self._lock:
            self._let_time_pass()
            return [each.observation() for target, each in self.things.items() if target.stack == stack]

    def glance(self, stack: str) -> Sequence[Observation]:
        return [
            replace(each, actual={}, damage=(), broken=())
            for each in self.observe(stack)
            if each.ref.kind in (Kind.GROUP, Kind.CONTAINER)
        ]

    def create(self, target: Incarnation, spec: Spec, bound: Sequence[Bound]) -> None:
        def effect() -> None:
            thing = self.things.setdefault(target, Thing(target))
            self._boundary()  # half made
            self._require(target, "create", bound)
            thing.spec, thing.needs = spec, tuple(each.need for each in bound)
            thing.phase, thing.edited = Phase.CREATED, self.clock()

        self._call("create", target, effect)

    def start(self, target: Incarnation) -> None:
        def effect() -> None:
            thing = self._known(target, "start")
            if thing.phase is Phase.RUNNING:
                return
            if isinstance(thing.spec, ContainerSpec):
                _check_command(target, thing.spec)
                self._require_group(thing)
                self._pids += 1
                thing.pid, thing.started, thing.starts = self._pids, self.clock(), thing.starts + 1
            thing.phase = Phase.RUNNING
            thing.actual, thing.damage, thing.broken = _live(thing.spec), (), ()

        self._call("start", target, effect)

    def stop(self, target: Incarnation, *, fault: str | None = None) -> None:
        def effect() -> None:
            thing = self.things.get(target)
            if thing is None or thing.phase is not Phase.RUNNING:
                return
            if target.ref.kind is Kind.CONTAINER:
                began = thing.started or 0
                self._end(
                    thing, Exit(started=began, ended=self.clock(), signal=15, stopped=True, fault=fault)
                )
            else:
                thing.phase = Phase.CREATED

        self._call("stop", target, effect)

    def update(self, target: Incarnation, spec: Spec, fields: Sequence[str], bound: Sequence[Bound]) -> None:
        def effect() -> None:
            thing = self._known(target, "update")
            self._require(target, "update", bound)
            if spec != thing.spec or EDITED in fields:
                thing.edited = self.clock()
            thing.spec = spec
            thing.needs = tuple(each.need for each in bound)
            if thing.phase is Phase.RUNNING:
                thing.actual, thing.damage = _live(spec), ()

        self._call("update", target, effect)

    def delete(self, target: Incarnation) -> None:
        def effect() -> None:
            thing = self.things.get(target)
            if thing and thing.phase is Phase.RUNNING and target.ref.kind is Kind.CONTAINER:
                raise StepError(f"delete {target.ref}: it runs", errno=errno.EBUSY)
            users = [
                each.target.ref
                for each in self.things.values()
                if each.target.stack == target.stack
                and any(need.ref == target.ref and need.structural for need in each.needs)
            ]
            others = [each for each in self.things if each.ref == target.ref and each != target]
            if thing and thing.phase is not Phase.INCOMPLETE and users and not others:
                raise StepError(f"delete {target.ref}: {users[0]} needs it", errno=errno.EBUSY)
            self.things.pop(target, None)

        self._call("delete", target, effect)

    def read_limits(self, target: Incarnation) -> Limits:
        spec = self._known(target, "read").spec
        return spec.limits if isinstance(spec, ContainerSpec) else Limits()

    # what happens in the world by itself

    def exit(self, ref: Ref, code: int = 0, *, oom: bool = False) -> None:
        """The container's process ends."""
        thing = self.thing(ref)
        self._end(thing, Exit(started=thing.started or 0, ended=self.clock(), code=code, oom=oom))

    def set_health(self, ref: Ref, health: Health, said: str = "") -> None:
        thing = self.thing(ref)
        thing.health, thing.said, thing.since = health, said, self.clock()

    def reboot(self) -> None:
        """Nothing is in effect any more; ends are remembered without their times, those that nobody saw as unknown."""
        for each in self.things.values():
            if each.pid is not None:
                self._end(each, Exit(started=0, ended=0))
            each.exits = tuple(replace(end, started=0.0, ended=0.0) for end in each.exits)
            each.edited = None
            each.starts = 0
            if each.phase is not Phase.INCOMPLETE:
                each.phase = Phase.EXITED if each.exits else Phase.CREATED

    def thing(self, ref: Ref) -> Thing:
        """The one incarnation of `ref`; KeyError when there is none."""
        found = [each for target, each in self.things.items() if target.ref == ref]
        if not found:
            raise KeyError(str(ref))
        return found[-1]

    # inside

    def _call(self, name: str, target: Incarnation, effect: Callable[[], None]) -> None:
        with self._lock:
            self._boundary()
            planted = self.failures.get((name, target.ref))
            if planted:
                raise planted.pop(0)
            effect()
            self.trace.append((name, target.ref))
            self._boundary()

    def _boundary(self) -> None:
        self.boundaries += 1
        if self.boundaries == self.crash_at:
            raise Crash

    def _known(self, target: Incarnation, what: str) -> Thing:
        thing = self.things.get(target)
        if thing is None or thing.phase is Phase.INCOMPLETE:
            raise StepError(f"{what} {target.ref}: there is no incarnation {target.id}", errno=errno.ENOENT)
        return thing

    def _require(self, target: Incarnation, what: str, bound: Sequence[Bound]) -> None:
        for each in bound:
            created = each.need.structural or each.need.until == "created"
            if created and each.target not in self.things:
                raise StepError(f"{what} {target.ref}: {each.target} is not there", errno=errno.ENOENT)

    def _require_group(self, thing: Thing) -> None:
        for need in thing.needs:
            if need.structural and need.ref.kind is Kind.GROUP:
                group = self.thing(need.ref)
                if group.phase is not Phase.RUNNING:
                    raise StepError(
                        f"start {thing.target.ref}: {need.ref} is not in effect", errno=errno.ENOENT
                    )

    def _end(self, thing: Thing, end: Exit) -> None:
        thing.phase, thing.pid, thing.started = Phase.EXITED, None, None
        thing.health, thing.said, thing.since = Health.NONE, "", None
        thing.exits = (*thing.exits, end)[-KEPT:]

    def _let_time_pass(self) -> None:
        now = self.clock()
        for each in self.things.values():
            if (
                each.phase is Phase.RUNNING
                and isinstance(each.spec, ContainerSpec)
                and each.started is not None
            ):
                ending = _ending(each.spec.command)
                if ending and each.started + ending[0] <= now:
                    end = Exit(started=each.started, ended=each.started + ending[0], code=ending[1])
                    self._end(each, end)


def _live(spec: Spec | None) -> dict[str, Any]:
    """What a kernel would say of the limits: those that are set."""
    limits = codec.encode(spec).get("limits", {}) if spec else {}
    return {f"limits.{name}": value for name, value in limits.items()}


def _check_command(target: Incarnation, spec: ContainerSpec) -> None:
    if spec.command[0] not in ("sleep", "true", "false", "sh"):
        raise StepError(
            f"start {target.ref}: {spec.command[0]}: no such command in {spec.rootfs}",
            call="execve",
            argument=spec.command[0],
            errno=errno.ENOENT,
        )


def _ending(command: tuple[str, ...]) -> tuple[float, int] | None:
    """(seconds, exit code) of a command that the fake understands; None: it runs for ever."""
    if command[0] in ("true", "false"):
        return 0.0, int(command[0] == "false")
    if command[0] == "sleep":
        return (float(command[1]), 0) if command[1:] and command[1] != "infinity" else None
    found = re.fullmatch(r"(?:sleep ([0-9.]+); *)?exit (\d+)", command[-1])
    return (float(found[1] or 0), int(found[2])) if found else None


def drivers(fake: FakeDriver) -> Mapping[Kind, FakeDriver]:
    """One fake for every kind."""
    return dict.fromkeys(Kind, fake)
