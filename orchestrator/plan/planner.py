"""plan(stack, observed, policy, now): what becomes of every ref, and why.

In: the wish (None: nothing is wished any more), the world as found, words of the user, the time. Out: a Plan. Pure: it has
no driver to call. Verbs come from the fields' update classes; steps are made from them in `steps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.graph import order
from orchestrator.graph.dependency import by_kind
from orchestrator.model.desired import ContainerSpec, Need, OnUnhealthy, Spec, Stack, Until, Update
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Health, Observation, Observed, Phase
from orchestrator.plan import diff, explain, readiness, restarts, steps
from orchestrator.plan.changes import Change, FieldChange, Plan, Policy, Verb

NEW_INCARNATION = (Verb.CREATE, Verb.REPLACE)
NEW_START = (Verb.CREATE, Verb.REPLACE, Verb.RESTART, Verb.START)


def plan(stack: Stack | None, observed: Observed, policy: Policy, now: float, *, name: str) -> Plan:
    """The plan for the stack `name`. `now`: CLOCK_BOOTTIME seconds. Needs of `stack` must have no cycle (CycleError)."""
    wish = stack or Stack(name=name, resources={}, needs={})
    kept, surplus = _choose(wish, observed)
    ready = readiness.fill(wish, kept, policy, now)
    wish = ready.stack
    verdicts = _Verdicts(wish, kept, policy, now, ready.why)
    for ref in _creation_order(wish):
        verdicts.add(ref)
    deletions = _deletions(surplus, wish, policy, everything=stack is None)
    verdicts.failures.update(_still_borrowed(surplus, wish, policy))
    made, removed = steps.build(wish, kept, verdicts.changes, frozenset(verdicts.withheld), deletions)
    changes = [change for change in verdicts.changes.values() if change.verb is not Verb.KEEP]
    return Plan(
        stack=name,
        changes=(*changes, *removed),
        steps=made,
        failures=dict(verdicts.failures),
        holds=dict(verdicts.holds),
    )


def _creation_order(stack: Stack) -> list[Ref]:
    after = {ref: [need.ref for need in needs] for ref, needs in stack.needs.items()}
    return order.order(by_kind(stack.resources), after)


_PHASES = {Phase.RUNNING: 3, Phase.EXITED: 2, Phase.CREATED: 1, Phase.INCOMPLETE: 0}
_COST = {Update.LIVE: 1, Update.RESTART: 2, Update.REPLACE: 3}


def _choose(stack: Stack, observed: Observed) -> tuple[dict[Ref, Observation], list[Observation]]:
    """For each wished ref the incarnation that is nearest to the wish; all others are surplus."""
    found: dict[Ref, list[Observation]] = {}
    for each in sorted(observed, key=lambda each: (each.ref, each.id)):
        found.setdefault(each.ref, []).append(each)
    kept: dict[Ref, Observation] = {}
    surplus: list[Observation] = []
    for ref, many in found.items():
        spec = stack.resources.get(ref)
        if spec is None:
            surplus += many
            continue
        best = many[0] if len(many) == 1 else max(many, key=lambda each: _nearness(spec, each))
        kept[ref] = best
        surplus += [each for each in many if each is not best]
    return kept, surplus


def _nearness(spec: Spec, each: Observation) -> tuple[bool, int, int, str]:
    cost = max((_COST[f.update] for f in diff.compare(each.ref, spec, each.applied, {})), default=0)
    return each.phase is not Phase.INCOMPLETE, -cost, _PHASES[each.phase], each.id


def _deletions(
    surplus: list[Observation], stack: Stack, policy: Policy, *, everything: bool
) -> list[tuple[Observation, Change]]:
    """Own volumes are never deleted but by word; a second incarnation of one shares its data, so it stays as well."""
    found = []
    for each in surplus:
        second = each.ref in stack.resources
        data = each.ref.kind is Kind.VOLUME and each.ref.owner is None
        if data and (second or not policy.prune_data):
            continue
        if each.ref in policy.borrowed and not second:
            continue
        reason = explain.SECOND if second else explain.STACK_GONE if everything else explain.GONE
        found.append((each, Change(ref=each.ref, verb=Verb.DELETE, reason=reason, id=each.id)))
    return found


def _still_borrowed(surplus: list[Observation], stack: Stack, policy: Policy) -> Mapping[Ref, str]:
    """What would be deleted, did others not use it."""
    gone = {each.ref for each in surplus if each.ref not in stack.resources}
    return {
        ref: f"is not deleted: {explain.used(users)}" for ref, users in policy.borrowed.items() if ref in gone
    }


@dataclass
class _Verdicts:
    """Decides ref by ref, needs first. `ready`: why an instance is in its service or out of it. `withheld`: refs whose new
    incarnation or start this plan does not make. `late`: held refs with edits that wait for their next start."""

    stack: Stack
    kept: Mapping[Ref, Observation]
    policy: Policy
    now: float
    ready: Mapping[str, str]
    changes: dict[Ref, Change] = field(default_factory=dict)
    withheld: set[Ref] = field(default_factory=set)
    failures: dict[Ref, str] = field(default_factory=dict)
    holds: dict[Ref, str] = field(default_factory=dict)
    late: set[Ref] = field(default_factory=set)

    def add(self, ref: Ref) -> None:
        change = self._verb(ref, self.stack.resources[ref], self.kept.get(ref))
        if ref in self.policy.absent and change.verb is not Verb.KEEP:
            change = replace(change, waits=(Need(ref),))
        found = self.kept.get(ref)
        if ref in self.policy.stopped:
            change = self._hold(change, found)
        mending = change.verb is Verb.RESTART and (change.cause or (found and found.broken))
        if change.verb in NEW_START and not mending:  # what is mended ran: its gate was passed
            change = self._gate(change)
        elif change.verb is Verb.UPDATE:
            change = self._gate_joined(change)
        if ref in self.policy.held and change.verb is not Verb.KEEP:
            self.failures[ref] = self.policy.held[ref]
            self.withheld.add(ref)
        if change.waits or change.not_before is not None:
            self.withheld.add(ref)
        self.changes[ref] = change

    def _verb(self, ref: Ref, spec: Spec, found: Observation | None) -> Change:
        places = self.stack.places
        base = Change(ref=ref, verb=Verb.KEEP, id=found.id if found else None, place=places.get((ref, "")))
        if found is None:
            return replace(base, verb=Verb.CREATE, reason=explain.NEW)
        if found.phase is Phase.INCOMPLETE:
            # A volume is made again over what is there: its data must not go with the record.
            verb = Verb.CREATE if ref.kind is Kind.VOLUME else Verb.REPLACE
            return replace(base, verb=verb, reason=explain.HALF_MADE)
        fields = diff.compare(ref, spec, found.applied, places)
        worst = max((_COST[each.update] for each in fields), default=0)
        if worst == _COST[Update.REPLACE]:
            return replace(base, verb=Verb.REPLACE, reason=explain.changed(fields), fields=fields)
        cause = self._cascade(ref, found)
        if cause:
            reason = explain.replaced(cause)
            return replace(base, verb=Verb.REPLACE, reason=reason, fields=fields, cause=cause)
        if worst == _COST[Update.RESTART]:
            return self._renew(base, found, fields)
        return self._phase(base, spec, found, fields)

    def _cascade(self, ref: Ref, found: Observation) -> Ref | None:
        """The first structural need that gets a new incarnation under this one."""
        recorded = {need.ref for need in found.needs}
        for need in self.stack.needs.get(ref, ()):
            change = self.changes.get(need.ref)
            if not need.structural or change is None or need.ref not in recorded:
                continue
            anew = change.verb is Verb.CREATE and change.id is None
            if anew or change.verb is Verb.REPLACE:
                return need.ref
        return None

    def _renew(self, base: Change, found: Observation, fields: tuple[FieldChange, ...]) -> Change:
        """A new process; a new incarnation where it must be bound to something that it was not made with."""
        recorded = {need.ref for need in found.needs}
        for need in self.stack.needs.get(base.ref, ()):
            if need.structural and need.ref not in recorded:
                reason = f"{explain.changed(fields)}, {explain.newly_bound(need)}"
                return replace(base, verb=Verb.REPLACE, reason=reason, fields=fields)
        return replace(base, verb=Verb.RESTART, reason=explain.changed(fields), fields=fields)

    def _phase(self, base: Change, spec: Spec, found: Observation, fields: tuple[FieldChange, ...]) -> Change:
        """No field asks for more than a live write: it is the phase that decides."""
        running = found.phase is Phase.RUNNING
        if isinstance(spec, ContainerSpec):
            if running and base.ref in self.policy.force:
                return replace(base, verb=Verb.RESTART, reason=explain.ASKED, fields=fields)
            cause = self._group_down(base.ref) if running else None
            if cause:
                reason = explain.brought_back(cause)
                return replace(base, verb=Verb.RESTART, reason=reason, fields=fields, cause=cause)
            if not running:
                return self._exited(base, spec, found, fields)
        elif not running:
            return replace(base, verb=Verb.START, reason=explain.NOT_IN_EFFECT, fields=fields)
        drifted = diff.drift(base.ref, spec, found.actual, self.stack.places)
        if isinstance(spec, ContainerSpec):
            new = self._followed(base, spec, found) or self._ailing(base, spec, found, edited=bool(fields))
            now = new and new.not_before is None and not self._gate(new).waits
            if new and (
                now or not (fields or drifted or found.damage)
            ):  # what can be done live waits for nothing
                return replace(new, fields=fields)
        if found.broken or any(each.update is Update.RESTART for each in drifted):
            reason = explain.drifted(drifted, found.broken)
            return replace(base, verb=Verb.RESTART, reason=reason, fields=fields or drifted)
        if fields:
            reason = explain.readiness(fields, self.ready) or explain.changed(fields)
            return replace(base, verb=Verb.UPDATE, reason=reason, fields=fields)
        if drifted or found.damage:
            follows = None if found.damage else explain.readiness(drifted, self.ready)
            reason = follows or explain.drifted(drifted, found.damage)
            return replace(base, verb=Verb.UPDATE, reason=reason, fields=drifted)
        return base

    def _group_down(self, ref: Ref) -> Ref | None:
        """The group under a running container whose namespaces are gone: they will be new ones."""
        for need in self.stack.needs.get(ref, ()):
            change = self.changes.get(need.ref)
            if need.ref.kind is Kind.GROUP and need.structural and change and change.verb is Verb.START:
                return need.ref
        return None

    def _followed(self, base: Change, spec: ContainerSpec, found: Observation) -> Change | None:
        """A new process, because a need that asks for it got one after this was started, or gets one now. One that came
        to the stack later, as by more replicas or the last edit, has not been restarted by its first start."""
        recorded = {need.ref for need in found.needs}
        for need in self.stack.needs.get(base.ref, ()) if spec.job is None and found.started else ():
            change, other = self.changes.get(need.ref), self.kept.get(need.ref)
            if not need.restarts or change is None:
                continue
            coming = change.verb in NEW_START and not change.rests and need.ref not in self.withheld
            starts = 0 if other is None else other.restarts + (coming and _last_start(other) > 0)
            came = other is not None and not coming and _last_start(other) <= (found.edited or 0.0)
            if not starts and (came or need.ref not in recorded):
                continue
            if coming or (other is not None and _last_start(other) > (found.started or 0.0)):
                return replace(base, verb=Verb.RESTART, reason=explain.followed(need, coming=coming))
        return None

    def _ailing(
        self, base: Change, spec: ContainerSpec, found: Observation, *, edited: bool
    ) -> Change | None:
        """A new process for one that is unhealthy, where that is asked for."""
        asked = spec.health is not None and spec.health.on_unhealthy is OnUnhealthy.RESTART
        if not asked or found.health is not Health.UNHEALTHY:
            return None
        if edited:  # an edit forgives what went wrong before it
            found = replace(found, edited=self.now)
        verdict = restarts.liveness(spec, found, self.now)
        if verdict.failure:
            self.failures[base.ref] = verdict.failure
        if not verdict.start:
            return None
        why = verdict.reason
        return replace(base, verb=Verb.RESTART, reason=why, fault=why, not_before=verdict.not_before)

    def _exited(
        self, base: Change, spec: ContainerSpec, found: Observation, fields: tuple[FieldChange, ...]
    ) -> Change:
        if base.ref in self.policy.force:
            return replace(base, verb=Verb.START, reason=explain.ASKED, fields=fields, forgive=True)
        if fields:  # an edit forgives what went wrong before it
            found = replace(found, edited=self.now)
        verdict = restarts.decide(spec, found, self.now)
        if verdict.failure:
            self.failures[base.ref] = verdict.failure
        if verdict.start:
            reason = explain.changed(fields) if fields else verdict.reason
            return replace(base, verb=Verb.START, reason=reason, fields=fields, not_before=verdict.not_before)
        if fields:
            return replace(base, verb=Verb.UPDATE, reason=explain.changed(fields), fields=fields)
        return base

    def _hold(self, change: Change, found: Observation | None) -> Change:
        """What becomes of it without a start: it is stopped, or stays as it is. What only a new process would bring is
        left for that: a job that has an edit before it must still run."""
        ref, why = change.ref, self.policy.stopped[change.ref]
        self.failures.pop(ref, None)
        self.holds[ref] = why
        running = found is not None and found.phase is Phase.RUNNING
        if change.verb in NEW_INCARNATION:
            resting = replace(change, rests=True)
            if not (running and self._gate(resting).waits):  # one that must wait stops now all the same
                return resting
        fields = change.fields
        if any(each.update is not Update.LIVE for each in fields):
            self.holds[ref], fields = explain.held(why, fields), ()
            self.late.add(ref)
        rest = replace(change, cause=None, not_before=None, fault=None, fields=fields)
        if running:
            return replace(rest, verb=Verb.STOP, reason=why)
        return replace(rest, verb=Verb.UPDATE if fields else Verb.KEEP)

    def _gate(self, change: Change) -> Change:
        """What rests needs the others made, not started: it is bound to them."""
        waits = tuple(
            need
            for need in self.stack.needs.get(change.ref, ())
            if not self._met(
                replace(need, until=Until.CREATED) if change.rests and not need.structural else need
            )
        )
        return replace(change, waits=waits) if waits else change

    def _gate_joined(self, change: Change) -> Change:
        """What runs waits only for what it is to be bound to (anew, or again), not for what a start would wait for."""
        bound = {need.ref for need in self.kept[change.ref].needs} - self.policy.absent
        new = [need for need in self.stack.needs.get(change.ref, ()) if need.ref not in bound]
        waits = tuple(need for need in new if need.structural and not self._met(need))
        return replace(change, waits=waits) if waits else change

    def _met(self, need: Need) -> bool:
        """It holds now, or (until created, started) a step of this plan will make it hold."""
        change, found = self.changes.get(need.ref), self.kept.get(need.ref)
        if change is None or need.ref in self.policy.absent:
            return False
        spec = self.stack.resources[need.ref]
        coming = need.ref not in self.withheld
        until = need.until
        if need.ref in self.holds and until is not Until.CREATED:
            done = found is not None and restarts.completed(found)
            return done and change.verb not in NEW_START and need.ref not in self.late
        if until is Until.HEALTHY and not (isinstance(spec, ContainerSpec) and spec.health):
            until = Until.STARTED  # without a probe, running is healthy
        match until:
            case Until.CREATED:
                return coming or (found is not None and change.verb not in NEW_INCARNATION)
            case Until.STARTED:
                if change.verb in NEW_START and (coming or change.verb is not Verb.RESTART):
                    return coming
                return found is not None and (found.phase is Phase.RUNNING or self._has_run(need.ref, found))
            case Until.HEALTHY:
                if change.verb in NEW_START or found is None:
                    return False
                return found.phase is Phase.RUNNING and found.health is Health.HEALTHY
            case Until.COMPLETED:
                return change.verb not in NEW_START and found is not None and restarts.completed(found)

    def _has_run(self, ref: Ref, found: Observation) -> bool:
        """It came to its end and may rest there: it was started once."""
        return bool(found.exits) and ref not in self.failures


def _last_start(observation: Observation) -> float:
    """Of its current or last process; 0 where that is not known."""
    last = observation.exits[-1].started if observation.exits else 0.0
    return max(observation.started or 0.0, last)
