"""From changes to numbered steps with their order.

In: the wish, what is kept of the world, a verb for each ref, the deletions. Out: steps, each after as few others as is
right: create before start, needs before dependents, dependents gone before what they were recorded to need; siblings in
parallel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.graph import order
from orchestrator.model.desired import Need, ServiceSpec, Stack, Until
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import EDITED, Observation, Phase
from orchestrator.plan.changes import Change, Op, Step, Verb

Key = tuple[Op, Ref, str | None]  # a step before it has a number; id None: the incarnation made in this plan
LEAVES = (Kind.ROOTFS, Kind.NETWORK, Kind.VOLUME)  # they need nothing


def build(
    stack: Stack,
    kept: Mapping[Ref, Observation],
    changes: Mapping[Ref, Change],
    withheld: frozenset[Ref],
    deletions: list[tuple[Observation, Change]],
) -> tuple[tuple[Step, ...], list[Change]]:
    """The steps, and the changes of `deletions` in their order, dependents first."""
    build = _Build(stack, kept, changes, withheld)
    doomed = build.teardown([each for each, _ in deletions])
    build.leave_groups()
    for ref, change in changes.items():
        build.bring_up(ref, change)
    build.early_updates()
    build.leave_services()
    removed = {(change.ref, change.id): change for _, change in deletions}
    ordered = [removed.pop(key) for key in doomed if key in removed]
    return build.numbered(), [*ordered, *removed.values()]


@dataclass
class _Build:
    stack: Stack
    kept: Mapping[Ref, Observation]
    changes: Mapping[Ref, Change]
    withheld: frozenset[Ref]
    after: dict[Key, list[Key]] = field(default_factory=dict)
    gone: dict[Ref, list[Key]] = field(default_factory=dict)  # last steps of what is torn down
    first_down: dict[Ref, list[Key]] = field(default_factory=dict)
    parted: dict[Ref, list[Key]] = field(
        default_factory=dict
    )  # need -> DELETE steps of its recorded dependents
    nameless: list[Key] = field(default_factory=list)  # DELETE steps of what may be an incarnation of any ref
    up: dict[Ref, dict[Op, Key]] = field(default_factory=dict)
    under: dict[Ref, list[Key]] = field(
        default_factory=dict
    )  # group -> STOP steps of what must leave it first
    fronts: dict[str, Ref] = field(default_factory=dict)  # instance -> the service before it

    def __post_init__(self) -> None:
        for ref, spec in self.stack.resources.items():
            if isinstance(spec, ServiceSpec):
                self.fronts |= dict.fromkeys(spec.instances, ref)

    # taking down

    def teardown(self, deleted: list[Observation]) -> list[tuple[Ref, str]]:
        """STOP and DELETE of all that goes, dependents first. Out: (ref, id) in that order."""
        replaced = self._replaced()
        staying = self._still_used(replaced)
        leaving = [each for each in deleted if each.ref not in staying] + list(replaced.values())
        by_ref: dict[Ref, list[Observation]] = {}
        for each in leaving:
            by_ref.setdefault(each.ref, []).append(each)
        keys = {(each.ref, each.id): each for each in sorted(leaving, key=_newest_kind_first)}
        dependents: dict[tuple[Ref, str], list[tuple[Ref, str]]] = {key: [] for key in keys}
        members: dict[Ref, list[tuple[Ref, str]]] = {}  # group -> the containers in it
        for key, each in keys.items():
            for need in set(each.needs):
                for target in by_ref.get(need.ref, ()):
                    dependents[target.ref, target.id].append(key)
                if each.ref.kind is Kind.CONTAINER and need.ref.kind is Kind.GROUP:
                    members.setdefault(need.ref, []).append(key)
        for key, each in keys.items():
            if each.ref.kind is Kind.SERVICE:  # nobody is sent to a container that is about to stop
                for need in set(each.needs):
                    for member in members.get(need.ref, ()):
                        dependents[member].append(key)
        sequence = order.order_anyway(list(keys), dependents)
        rank = {key: place for place, key in enumerate(sequence)}
        for key in sequence:
            earlier = [other for other in dependents[key] if rank[other] < rank[key]]
            self._take_down(keys[key], earlier)
        return sequence

    def _replaced(self) -> dict[Ref, Observation]:
        """Old incarnations that go: of replacements that are made now, and of those on something that goes."""
        found: dict[Ref, Observation] = {}
        for ref, change in self.changes.items():
            if change.verb is not Verb.REPLACE:
                continue
            old = self.kept[ref]
            forced = any(need.structural and need.ref in found for need in old.needs)
            if forced or ref not in self.withheld:
                found[ref] = old
        return found

    def _still_used(self, replaced: Mapping[Ref, Observation]) -> set[Ref]:
        """What incarnations stand on that could not be replaced, or let go of it, yet."""
        waiting = [
            ref
            for ref in self.withheld
            if ref in self.kept
            and ref not in replaced
            and self.changes[ref].verb in (Verb.REPLACE, Verb.UPDATE)
        ]
        used: set[Ref] = set()
        while waiting:
            ref = waiting.pop()
            old = self.kept.get(ref)
            needs = old.needs if old else ()
            if old and self.changes[ref].verb is Verb.UPDATE and ref not in self.withheld:
                needs = self._needs(ref)  # it lets go of the others in this plan
            more = {need.ref for need in needs if need.structural} - used
            used |= more
            waiting += more
        return used

    def _take_down(self, each: Observation, dependents: list[tuple[Ref, str]]) -> None:
        delete = (Op.DELETE, each.ref, each.id)
        first = delete
        if each.phase is Phase.RUNNING:
            first = (Op.STOP, each.ref, each.id)
            self.after[first] = []
        self.after[delete] = [] if first == delete else [first]
        self.after[first] += [(Op.DELETE, ref, id) for ref, id in dependents]
        self.gone.setdefault(each.ref, []).append(delete)
        if each.ref.name == each.id:  # its record is gone, and with it the name
            self.nameless.append(delete)
        self.first_down.setdefault(each.ref, []).append(first)
        for need in each.needs:
            self.parted.setdefault(need.ref, []).append(delete)

    # bringing up, needs first

    def leave_groups(self) -> None:
        """Containers that run while their group's namespaces are gone stop before these are made anew."""
        for ref, change in self.changes.items():
            if (
                change.verb in (Verb.RESTART, Verb.STOP)
                and ref not in self.withheld
                and self.kept[ref].phase is Phase.RUNNING
            ):
                for need in self._needs(ref):
                    if need.ref.kind is Kind.GROUP and need.structural:
                        self.under.setdefault(need.ref, []).append((Op.STOP, ref, change.id))

    def bring_up(self, ref: Ref, change: Change) -> None:
        if ref in self.withheld:
            return
        match change.verb:
            case Verb.KEEP | Verb.DELETE:
                return
            case Verb.CREATE | Verb.REPLACE:
                self._create(ref, change)
            case Verb.START:
                self._start(
                    ref, change, self._update(ref, change, []) if change.fields or change.forgive else []
                )
            case Verb.STOP:
                self._stop(ref, change)
            case Verb.RESTART:
                self._restart(ref, change)
            case Verb.UPDATE:
                self._update(ref, change, self._ready(ref))
                if ref.kind is Kind.NETWORK:  # an address is given anew only after its last holder has gone
                    self.after[Op.UPDATE, ref, change.id] += self.parted.get(ref, [])

    def _create(self, ref: Ref, change: Change) -> None:
        id = change.id if change.verb is Verb.CREATE else None
        after = [*self.gone.get(ref, ()), *self.nameless]
        for need in self._needs(ref):
            if need.structural or need.until is Until.CREATED:
                after += self._step(need.ref, Op.CREATE)
        create = self._add((Op.CREATE, ref, id), after)
        self.up[ref] = {Op.CREATE: create}
        if not change.rests:
            self.up[ref][Op.START] = self._add((Op.START, ref, id), [create, *self._ready(ref)])
        if change.verb is Verb.REPLACE:  # what is new beneath must be there before the old one goes
            for first in self.first_down.get(ref, ()):
                self.after[first] += self._fresh_leaves(ref)

    def _start(self, ref: Ref, change: Change, after: list[Key]) -> None:
        waits = [*after, *self.under.get(ref, ())]
        start = self._add((Op.START, ref, change.id), [*waits, *self._ready(ref)])
        self.up.setdefault(ref, {})[Op.START] = start

    def _stop(self, ref: Ref, change: Change) -> None:
        """After those that need it, where they are stopped as well."""
        stop = self._add((Op.STOP, ref, change.id), [])
        beneath, seen = [need.ref for need in self._needs(ref)], {ref}
        while beneath:
            other = beneath.pop()
            if other in seen:
                continue
            seen.add(other)
            beneath += [need.ref for need in self._needs(other)]
            found = self.changes.get(other)
            if found is not None and found.verb is Verb.STOP and other not in self.withheld:
                self.after[Op.STOP, other, found.id].append(stop)
        if change.fields:
            self._update(ref, change, [stop])

    def _restart(self, ref: Ref, change: Change) -> None:
        last: list[Key] = []
        if self.kept[ref].phase is Phase.RUNNING:
            under = any(
                need.ref.kind is Kind.GROUP and need.structural and self._step(need.ref, Op.START)
                for need in self._needs(ref)
            )
            stop = self._add((Op.STOP, ref, change.id), [] if under else self._ready(ref))
            last = [stop]
        if change.fields:
            last = self._update(ref, change, last)
        self._start(ref, change, last)

    def _update(self, ref: Ref, change: Change, after: list[Key]) -> list[Key]:
        update = self._add((Op.UPDATE, ref, change.id), after)
        self.up.setdefault(ref, {})[Op.UPDATE] = update
        return [update]

    def early_updates(self) -> None:
        """Who no longer needs what goes lets go of it first: a service's map before its instance stops."""
        for ref, change in self.changes.items():
            update = self.up.get(ref, {}).get(Op.UPDATE)
            if change.verb is not Verb.UPDATE or update is None:
                continue
            wanted = {need.ref for need in self._needs(ref)}
            left = [need.ref for need in self.kept[ref].needs if need.ref not in wanted]
            for target in left:
                if target.kind in LEAVES:
                    for first in self.first_down.get(target, ()):
                        self.after[first].append(update)
            firsts = [
                first
                for target in left
                if target.kind not in LEAVES
                for going in (target, *(ref for _, ref, _ in self.parted.get(target, ())))
                for first in self.first_down.get(going, ())
            ]
            if firsts and not any(self._step(target, Op.START) for target in wanted):
                self.after[update] = []
                for first in firsts:
                    self.after[first].append(update)

    def leave_services(self) -> None:
        """Nobody is sent to a container that is about to be held."""
        for ref, change in self.changes.items():
            service = self.fronts.get(ref.name.partition("/")[0])
            if change.verb is not Verb.STOP or ref in self.withheld or service is None:
                continue
            update = self.up.get(service, {}).get(Op.UPDATE)
            if update is not None and not any(
                self._step(need.ref, Op.START) for need in self._needs(service)
            ):
                self.after[Op.STOP, ref, change.id].append(update)

    # shared

    def _add(self, key: Key, after: list[Key]) -> Key:
        self.after[key] = after
        return key

    def _needs(self, ref: Ref) -> tuple[Need, ...]:
        return self.stack.needs.get(ref, ())

    def _step(self, ref: Ref, op: Op) -> list[Key]:
        step = self.up.get(ref, {}).get(op)
        return [step] if step else []

    def _ready(self, ref: Ref) -> list[Key]:
        """The last steps of all that `ref` needs; of what must be healthy also that it can be reached by its name."""
        found: list[Key] = []
        for need in self._needs(ref):
            found += self._step(need.ref, Op.START) or self._step(need.ref, Op.UPDATE)
            if need.until is Until.HEALTHY:
                service = self.fronts.get(need.ref.name.partition("/")[0])
                if service is not None:
                    found += self._step(service, Op.START) or self._step(service, Op.UPDATE)
        return found

    def _fresh_leaves(self, ref: Ref) -> list[Key]:
        return [
            step
            for need in self._needs(ref)
            if need.structural and need.ref.kind in LEAVES and need.ref not in self.gone
            for step in self._step(need.ref, Op.START)
        ]

    def numbered(self) -> tuple[Step, ...]:
        sequence = order.order_anyway(list(self.after), self.after)
        numbers = {key: place + 1 for place, key in enumerate(sequence)}
        return tuple(self._numbered(key, numbers) for key in sequence)

    def _numbered(self, key: Key, numbers: Mapping[Key, int]) -> Step:
        op, ref, id = key
        number = numbers[key]
        after = sorted({numbers[other] for other in self.after[key] if numbers[other] < number})
        written = op in (Op.CREATE, Op.UPDATE)
        change = self.changes.get(ref)
        fields = [each.name for each in change.fields] if change and op is Op.UPDATE else []
        return Step(
            number=number,
            op=op,
            ref=ref,
            id=id,
            after=tuple(after),
            spec=self.stack.resources[ref] if written else None,
            needs=self._needs(ref) if written else (),
            fields=(*fields, EDITED) if change and change.forgive and op is Op.UPDATE else tuple(fields),
            fault=change.fault if change and op is Op.STOP else None,
        )


def _newest_kind_first(each: Observation) -> tuple[int, Ref, str]:
    return -list(Kind).index(each.ref.kind), each.ref, each.id
