"""`depends_on` to needs. `web -> db` means web needs db.

In: units. Out: for each container of a unit, the needs that all instances share and the siblings that each instance finds
in itself. A name is looked up among siblings first, then among the stack's groups and containers. Cycles are `graph`'s to
find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.manifest.codes import Code
from orchestrator.manifest.pieces import RESTART, Dependency
from orchestrator.model.desired import Need, Until
from orchestrator.resolve.report import Path, Report, near
from orchestrator.resolve.units import Unit, ref_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """What one container waits for: `outside` is the same for all instances; `siblings` lie in its own instance: name,
    condition, whether a restart is followed."""

    outside: tuple[Need, ...] = ()
    siblings: tuple[tuple[str, Until, bool], ...] = ()


class Dependencies:
    """Looks names up; remembers what each group and condition comes to."""

    def __init__(
        self, units: Mapping[str, Unit], report: Report, *, probed: Callable[[Unit, str], bool], partial: bool
    ) -> None:
        """`probed`: whether a container of a unit has a health check, or may have one."""
        self._units = units
        self._probed = probed
        self._report = report
        self._partial = partial  # health or job of a target may have been left out for an error of its own
        self._known: dict[tuple[str, Until, bool], tuple[Need, ...]] = {}

    def of_group(self, unit: Unit) -> tuple[Need, ...]:
        """What every container of the group waits for."""
        needs: list[Need] = []
        for name, written in unit.depends_on.items():
            path = (*unit.path, "depends_on", name)
            if self._is_self(name, unit, path) or not self._exists(name, unit, (), path):
                continue
            needs += self._group(name, written, path)
        return tuple(needs)

    def of_container(self, unit: Unit, container: str, shared: tuple[Need, ...]) -> Waits:
        """`shared`: what its group waits for."""
        outside, siblings = list(shared), []
        others = [each for each in unit.containers if each != container]
        for name, written in unit.containers[container].depends_on.items():
            path, until = (*unit.path_of(container), "depends_on", name), Until(written.until)
            if name in others:
                if self._fits(until, name, unit, (name,), path):
                    siblings.append((name, until, written.on_restart == RESTART))
            elif not self._is_self(name, unit, path, container) and self._exists(name, unit, others, path):
                outside += self._group(name, written, path)
        return Waits(outside=tuple(dict.fromkeys(outside)), siblings=tuple(siblings))

    def _is_self(self, name: str, unit: Unit, path: Path, container: str | None = None) -> bool:
        if name not in (unit.name, container):
            return False
        self._report.fail(Code.SELF_DEPENDENCY, f'"{name}" depends on itself', path, hint="remove it")
        return True

    def _exists(self, name: str, unit: Unit, siblings: Sequence[str], path: Path) -> bool:
        if name in self._units:
            return True
        group, _, number = name.rpartition("-")
        instance = (
            f'"{name}" is an instance: write {group}' if group in self._units and number.isdigit() else None
        )
        options = [*siblings, *(each for each in self._units if each != unit.name)]
        self._report.fail(
            Code.UNKNOWN_DEPENDENCY,
            f'"{unit.name}" depends on "{name}", which is not declared',
            path,
            hint=instance or near(name, options, otherwise="name a container or group of this stack"),
        )
        return False

    def _group(self, name: str, written: Dependency, path: Path) -> tuple[Need, ...]:
        unit, until, follow = self._units[name], Until(written.until), written.on_restart == RESTART
        if not self._fits(until, name, unit, tuple(unit.containers), path):
            return ()
        known = self._known.get((name, until, follow))
        if known is None:
            conditions = {each: self._condition(unit, each, until) for each in unit.containers}
            known = tuple(
                Need(ref_of(instance, each), condition, restarts=follow)
                for instance in unit.instances
                for each, condition in conditions.items()
                if condition is not None
            )
            self._known[name, until, follow] = known
        return known

    def _fits(self, until: Until, name: str, unit: Unit, targets: Sequence[str], path: Path) -> bool:
        """Whether any of the targets, containers of the unit, can ever meet the condition."""
        jobs = [each for each in targets if unit.containers[each].job is not None]
        if until is Until.HEALTHY and not any(self._probed(unit, each) for each in targets):
            if not self._partial:
                hint = (
                    f"it is a job: write {name}: completed"
                    if jobs
                    else f"give {name} a health:, or write {name}: started"
                )
                self._report.fail(
                    Code.NO_HEALTH,
                    f'"{name}" has no health check, so it never becomes healthy',
                    path,
                    hint=hint,
                )
            return False
        if until is Until.COMPLETED and not jobs:
            if not self._partial:
                hint = f"write job: {{}} in {name}, or write {name}: started"
                self._report.fail(
                    Code.NOT_A_JOB, f'"{name}" is not a job, so it never completes', path, hint=hint
                )
            return False
        return True

    def _condition(self, unit: Unit, container: str, until: Until) -> Until | None:
        """What a condition on a group means for one container of it: one without health is healthy when started."""
        if until is Until.HEALTHY and not self._probed(unit, container):
            return Until.STARTED
        if until is Until.COMPLETED and unit.containers[container].job is None:
            return None
        return until
