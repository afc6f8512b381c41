"""What operators said of refs and stacks, to be heeded at every pass until it is taken back.

In: a word with who said it and when. Out: the words of a stack. `hold`: stopped, and not started until lifted. `restart`:
every process of the ref that started before is started again. `suspend` (of a whole stack: no ref): nobody reconciles it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.model.ids import Ref
from orchestrator.state.database import Database


class Word(StrEnum):
    HOLD = "hold"
    RESTART = "restart"
    SUSPEND = "suspend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """`ref` None: of the whole stack. `at`: wall clock, Unix seconds; `since_boot`: the same moment in CLOCK_BOOTTIME
    seconds of the boot `boot` (/proc/sys/kernel/random/boot_id). `author`: who, by which command."""

    stack: str
    word: Word
    ref: Ref | None
    at: float
    since_boot: float
    boot: str
    author: str = ""


class Words:
    """The words in the store of an instance."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def say(self, *many: Said) -> None:
        """Record them, durable when this returns; the same word of the same ref is renewed."""
        with self._database.writing() as db:
            db.executemany(
                "INSERT OR REPLACE INTO words (stack, ref, word, at, since_boot, boot, author) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (s.stack, str(s.ref or ""), s.word.value, s.at, s.since_boot, s.boot, s.author)
                    for s in many
                ],
            )

    def lift(self, stack: str, word: Word, *refs: Ref | None) -> int:
        """Take words back; how many there were."""
        with self._database.writing() as db:
            gone = [
                db.execute(
                    "DELETE FROM words WHERE stack = ? AND word = ? AND ref = ?",
                    (stack, word.value, str(ref or "")),
                ).rowcount
                for ref in refs
            ]
        return sum(gone)

    def forget(self, stack: str) -> None:
        """Take all words of a stack back."""
        with self._database.writing() as db:
            db.execute("DELETE FROM words WHERE stack = ?", (stack,))

    def of(self, stack: str) -> tuple[Said, ...]:
        """All that stands of one stack."""
        rows = self._database.rows(
            "SELECT ref, word, at, since_boot, boot, author FROM words WHERE stack = ? ORDER BY ref, word",
            (stack,),
        )
        return tuple(
            Said(
                stack=stack,
                word=Word(word),
                ref=Ref.parse(ref) if ref else None,
                at=at,
                since_boot=since_boot,
                boot=boot,
                author=author,
            )
            for ref, word, at, since_boot, boot, author in rows
        )
