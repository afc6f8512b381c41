"""Whether our table is as we left it, told mostly by the ruleset's generation.

In: what was loaded last (its digest and the generation that this made). Out: a verdict. While nobody changed any ruleset,
one question is enough; else the table is listed and compared with a listing taken while the generation was still ours. That
listing is kept in the run folder for other processes; it can be taken anew at any time.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.drivers.network import files, listing
from orchestrator.errors import OrchestratorError

_SHARE = 20  # a listing may cost one part in so many of the time between two: it grows with the table


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """`listing` of the table that the script `digest` made in `generation`; found the same in `verified`."""

    digest: str
    generation: int
    listing: str
    verified: int


class Baseline:
    def __init__(self, file: Path, table: str) -> None:
        self._file = file
        self._table = table
        self._memory: _Known | None = None
        self._next = 0.0

    def intact(self, digest: str, generation: int) -> bool:
        """In the calling thread's namespace. Where nobody can tell any more, the answer is no."""
        if not digest or not generation:
            return False
        now, known = listing.generation(), self._known(digest, generation)
        if now == generation:
            return True
        if known is None or now == known.verified:
            return known is not None
        if listing.digest(self._table) != known.listing:
            return False
        if listing.generation() == now:
            self._keep(replace(known, verified=now))
        return True

    def forget(self) -> None:
        """The table is gone."""
        self._memory = None
        self._file.unlink(missing_ok=True)

    def learn(self, digest: str, generation: int) -> None:
        """Take the listing, if there is none and the table is sure to be ours. To be asked at each look."""
        began = time.monotonic()
        known = self._known(digest, generation)
        if known is not None or not generation or began < self._next or listing.generation() != generation:
            return
        found = listing.digest(self._table)
        ended = time.monotonic()
        self._next = ended + _SHARE * (ended - began)
        if listing.generation() == generation:
            self._keep(_Known(digest=digest, generation=generation, listing=found, verified=generation))

    def _known(self, digest: str, generation: int) -> _Known | None:
        found = self._memory
        if found is None or (found.digest, found.generation) != (digest, generation):
            found = self._memory = self._read()
        return (
            found if found is not None and (found.digest, found.generation) == (digest, generation) else None
        )

    def _read(self) -> _Known | None:
        try:
            return _Known(**json.loads(self._file.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _keep(self, known: _Known) -> None:
        self._memory = known
        try:
            files.replace(self._file, json.dumps(asdict(known)))
        except (OSError, OrchestratorError):
            return  # the next process takes its own
