"""Golden transcripts: commands and what they print, replayed on the fake driver.

A transcript is a text of `$ orchestrator ...` lines with their output (stdout and stderr as they come), `[exit N]` where
N is not 0, and `# ...` lines that explain. Every moment is written as the same one. `$ edit FILE: OLD => NEW` changes a
file. Set UPDATE_TRANSCRIPTS=1 to write what is printed now, and read the difference as you would read code.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from orchestrator.app import App
from orchestrator.cli.main import cli

_MOMENT = "2026-01-31 12:00:00"


@dataclass(frozen=True, slots=True)
class Block:
    """One command of a transcript (None: what stands before the first) and the lines below it."""

    command: str | None
    lines: tuple[str, ...]


def parse(text: str) -> Iterator[Block]:
    command: str | None = None
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            yield Block(command, tuple(lines))
            command, lines = line[2:], []
        else:
            lines.append(line)
    yield Block(command, tuple(lines))


def replay(text: str, opener: Callable[[str | None], App], folder: Path) -> str:
    """The transcript as it would be written now; `folder` is the working directory of the commands."""
    out: list[str] = []
    for block in parse(text):
        if block.command is None:
            out += block.lines
            continue
        out.append(f"$ {block.command}")
        out += (
            _edit(block.command, folder) if block.command.startswith("edit ") else _run(block.command, opener)
        )
        # Explanations and blank lines between blocks stay where they were.
        tail = len(block.lines)
        while tail and (not block.lines[tail - 1] or block.lines[tail - 1].startswith("# ")):
            tail -= 1
        out += block.lines[tail:]
    return "\n".join(out).rstrip("\n") + "\n"


def _run(command: str, opener: Callable[[str | None], App]) -> list[str]:
    program, *arguments = shlex.split(command)
    assert program == "orchestrator", command
    done = CliRunner().invoke(cli, arguments, obj=opener, prog_name="orchestrator")
    output = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", _MOMENT, done.output)
    lines = [line.rstrip() for line in output.rstrip("\n").split("\n")] if output else []
    return [*lines, f"[exit {done.exit_code}]"] if done.exit_code else lines


def _edit(command: str, folder: Path) -> list[str]:
    found = re.fullmatch(r"edit (\S+): (.*) => (.*)", command)
    assert found, command
    place = folder / found[1]
    text = place.read_text()
    assert found[2] in text, f"{found[1]} has no {found[2]!r}"
    place.write_text(text.replace(found[2], found[3], 1))
    return []
