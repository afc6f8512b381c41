"""Where text goes: results to stdout, progress and diagnostics to stderr, colour only where it is wanted."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import click


class Color(StrEnum):
    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """`verbosity`: -1 quiet (errors and results only), 0, 1 verbose."""

    color: Color = Color.AUTO
    verbosity: int = 0

    def out(self, text: str, *, newline: bool = True) -> None:
        """A result."""
        click.echo(text, nl=newline, color=True)

    def document(self, data: Any) -> None:
        """A result as JSON."""
        self.out(json.dumps(data, indent=2, ensure_ascii=False))

    def say(self, text: str) -> None:
        """Progress; silent with --quiet."""
        if self.verbosity >= 0:
            click.echo(text, err=True, color=True)

    def complain(self, text: str, *, newline: bool = True) -> None:
        """A diagnostic; never silent."""
        click.echo(text, err=True, nl=newline, color=True)

    def paint(self, text: str, style: str, *, err: bool = False) -> str:
        """`style`: good, bad, soft, strong or warn; nothing where colour is not wanted."""
        return click.style(text, **_STYLES[style]) if self._colored(err=err) else text

    def _colored(self, *, err: bool) -> bool:
        if self.color is not Color.AUTO:
            return self.color is Color.ALWAYS
        stream = sys.stderr if err else sys.stdout
        return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


_STYLES: dict[str, dict[str, Any]] = {
    "good": {"fg": "green"},
    "bad": {"fg": "red", "bold": True},
    "warn": {"fg": "yellow"},
    "soft": {"dim": True},
    "strong": {"bold": True},
    "plain": {},
}
