"""From recorded words to what a pass heeds: who is held, who is to be restarted now, whether anything is done at all.

In: the words of a stack, what is observed, the boot that this is. Out: `Orders`. Pure. A restart is due while the process
that ran when it was asked for is the last one: it needs no memory of having been done, and a reboot has done it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.model.desired import RestartPolicy
from orchestrator.model.ids import Ref
from orchestrator.model.observed import Health, Observation, Observed, Phase
from orchestrator.plan.changes import Policy
from orchestrator.state.words import Said, Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """As `Policy` has them. `suspended`: who wants nothing done to the stack, since when; None: nobody."""

    stopped: Mapping[Ref, str] = field(default_factory=dict)
    force: frozenset[Ref] = frozenset()
    suspended: str | None = None

    def policy(self, policy: Policy) -> Policy:
        """With these added."""
        return replace(policy, stopped={**policy.stopped, **self.stopped}, force=policy.force | self.force)


def read(words: Iterable[Said], observed: Observed, *, boot: str) -> Orders:
    """`boot`: /proc/sys/kernel/random/boot_id. Health decides which of several instances is restarted next."""
    stopped, suspended, asked = {}, None, {}
    for said in words:
        match said.word:
            case Word.HOLD if said.ref is not None:
                stopped[said.ref] = told(said, "stopped")
            case Word.RESTART if said.ref is not None and said.boot == boot:
                asked[said.ref] = said.since_boot
            case Word.SUSPEND:
                suspended = told(said, "suspended")
            case Word.HOLD | Word.RESTART:
                pass
    return Orders(stopped=stopped, force=_due(asked, observed), suspended=suspended)


def told(said: Said, what: str) -> str:
    """`stopped by ann since 2026-01-31 12:00:00`."""
    who = said.author.partition(":")[0]
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(said.at))
    return f"{what}{f' by {who}' if who else ''} since {since}"


def last_start(each: Observation) -> float | None:
    """Of its process, or of its last one; None: it has had none, 0: in an earlier boot."""
    if each.started is not None:
        return each.started
    return each.exits[-1].started if each.exits else None


def fulfilled(since_boot: float, each: Observation) -> bool:
    """It has got a process after that moment."""
    began = last_start(each)
    return began is not None and began >= since_boot


def _due(asked: Mapping[Ref, float], observed: Observed) -> frozenset[Ref]:
    """Those to restart now. Of the instances of a group that were asked for together one comes after the other: the next
    one when those before it are up again."""
    found: dict[Ref, list[Observation]] = {}
    for each in observed:
        if each.ref in asked:
            found.setdefault(each.ref, []).append(each)
    turns: dict[tuple[str, float], dict[int, list[Ref]]] = {}
    for ref, moment in asked.items():
        group, number = _instance(ref)
        turns.setdefault((group, moment), {}).setdefault(number, []).append(ref)
    due: set[Ref] = set()
    for (_, moment), instances in turns.items():
        some = [each for refs in instances.values() for ref in refs for each in found.get(ref, ())]
        coming_up = any(fulfilled(moment, each) and not _up(each) for each in some)
        for _, refs in sorted(instances.items()):
            waiting = [ref for ref in refs if _old(moment, found.get(ref, ()))]
            if waiting and (not coming_up or len(waiting) < len(refs)):
                due.update(waiting)
                break
    return frozenset(due)


def _old(moment: float, incarnations: Sequence[Observation]) -> bool:
    """It has run, and not since that moment."""
    ran = any(last_start(each) is not None for each in incarnations)
    return ran and not any(fulfilled(moment, each) for each in incarnations)


def _up(each: Observation) -> bool:
    """Nothing is in the way of restarting another instance."""
    if each.phase is Phase.RUNNING:
        return each.applied.get("health") is None or each.health is Health.HEALTHY
    rests = each.applied.get("job") is not None or each.applied.get("restart") != RestartPolicy.ALWAYS
    return rests and bool(each.exits) and each.exits[-1].success


def _instance(ref: Ref) -> tuple[str, int]:
    """`web-2/server` -> (web, 2)."""
    group, _, number = ref.name.partition("/")[0].rpartition("-")
    return group, int(number)
