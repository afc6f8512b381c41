"""Which failed steps are tried again, and when: the memory of one process, nothing that must outlive it.

In: the failed results of a pass. Out: the refs to leave alone for now, with what was said. Failures are tried again after
0.5, 1 and 2 s; those that no repetition mends (no such file, no permission, wrong format, bad argument), and all after
that, without much hope and ever more slowly: somebody may mend the host meanwhile.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.execute.executor import StepResult
from orchestrator.model.ids import Ref

DELAYS = (0.5, 1.0, 2.0)
SLOW, LONGEST = 5.0, 60.0
FOR_GOOD = frozenset(
    {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.ENOEXEC,
        errno.EINVAL,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ELIBBAD,
    }
)


@dataclass(slots=True)
class Attempts:
    """Times: seconds of any one clock."""

    tries: dict[Ref, int] = field(default_factory=dict)
    said: dict[Ref, str] = field(default_factory=dict)
    due: dict[Ref, float] = field(default_factory=dict)
    hopes: set[Ref] = field(default_factory=set)

    def failed(self, results: Mapping[Ref, StepResult], now: float) -> None:
        for ref, result in results.items():
            tries = self.tries.get(ref, 0)
            hope = tries < len(DELAYS) and result.errno not in FOR_GOOD
            (self.hopes.add if hope else self.hopes.discard)(ref)
            slow = min(LONGEST, SLOW * 2.0 ** min(tries, 8))
            self.due[ref] = now + (DELAYS[tries] if hope else slow)
            self.tries[ref] = tries + 1
            self.said[ref] = result.error or "failed"

    def succeeded(self, ref: Ref) -> None:
        """A later step of the ref went well: what it said before is settled."""
        for memory in (self.tries, self.said, self.due):
            memory.pop(ref, None)
        self.hopes.discard(ref)

    @property
    def hopeful(self) -> bool:
        """Whether anything is to be tried again soon."""
        return bool(self.hopes)

    def held(self, now: float) -> Mapping[Ref, str]:
        return {ref: self.said[ref] for ref, due in self.due.items() if due > now}

    def next_due(self, now: float) -> float | None:
        """Seconds until the next try; None: there is none."""
        return max(0.0, min(self.due.values()) - now) if self.due else None
