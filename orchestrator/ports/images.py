"""What preparing a stack needs from the store of roots: to find out what a name stands for, and to have it here.

Errors: `StepError` or `HostError` with a hint; a failed call leaves what was there before. Every call may be killed between
any two lines: what is half done is never used, and what was fetched whole is not fetched again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.model.images import Pin, Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one wish is. `done` of `total` bytes (None: unknown); `line`: what a build printed last."""

    wish: Wish
    stage: str  # pull, unpack, build, ready
    done: int = 0
    total: int | None = None
    line: str = ""


Watch = Callable[[Progress], object]


class Images(Protocol):
    def pin(self, wish: Wish) -> Pin:
        """What it stands for now: asks the registry as the wish says, reads the archive, or looks whether it was built."""
        ...

    def fetch(self, wish: Wish, pin: Pin, watch: Watch) -> Pin:
        """Have that very content here, ready for use; the pin, with its digest also where it had none. StepError where the
        content turns out to be another than the pin's."""
        ...

    def renew(self, wish: Wish, watch: Watch) -> Pin:
        """What it stands for now, whatever is known here: asks the registry, reads the archive, builds the recipe."""
        ...

    def hold(self, holder: str, digests: Sequence[str]) -> None:
        """The file at the absolute path `holder` names these, and holds them for as long as it is there."""
        ...
