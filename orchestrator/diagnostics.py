"""Places in what the user wrote, and messages about them.

In: spans and facts. Out: `Diagnostic` values and their rendering as text. Must not read files or know what a manifest is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

_WIDEST = 240  # columns of a source line that are shown, of them
_BEFORE = 60  # at most these before the place


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A place in a text: 1-based line and column, `width` columns wide."""

    file: str
    line: int
    column: int
    width: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One message with a stable code, and where it belongs. `related` are further places with a word each."""

    code: str
    message: str
    span: Span | None = None
    hint: str | None = None
    severity: Severity = Severity.ERROR
    related: tuple[tuple[Span, str], ...] = ()


def render(diagnostics: Iterable[Diagnostic], sources: Mapping[str, str]) -> str:
    """The diagnostics as text; `sources` maps a file's name to its content, for the source lines."""
    diagnostics = tuple(diagnostics)
    shown = {
        span.file
        for each in diagnostics
        for span in (each.span, *(where for where, _ in each.related))
        if span
    }
    lines = {name: text.splitlines() for name, text in sources.items() if name in shown}
    return "\n".join(_block(each, lines) for each in diagnostics)


def _block(each: Diagnostic, lines: Mapping[str, list[str]]) -> str:
    out = [f"{each.severity}[{each.code}]: {each.message}"]
    if each.span:
        out += _excerpt(each.span, each.hint, lines)
    elif each.hint:
        out.append(f"  hint: {each.hint}")
    for span, word in each.related:
        out += _excerpt(span, word, lines)
    return "\n".join(out) + "\n"


def _excerpt(span: Span, word: str | None, lines: Mapping[str, list[str]]) -> list[str]:
    text = lines.get(span.file, [])
    out = [f"  --> {span}"]
    if not 1 <= span.line <= len(text):
        return [*out, f"   = {word}"] if word else out
    margin = " " * len(str(span.line))
    line, left = text[span.line - 1].rstrip(), span.column - 1
    cut = max(0, min(left - _BEFORE, len(line) - _WIDEST)) if len(line) > _WIDEST else 0
    # one column a character; what a terminal would act on is not shown
    source = "".join(each if each.isprintable() else " " for each in line[cut : cut + _WIDEST])
    width = max(1, min(span.width, len(source) - (left - cut)))
    if cut:
        source, left = f"…{source}", left - cut + 1
    if cut + _WIDEST < len(line):
        source += "…"
    marks = " " * left + "^" * width
    out += [f"{margin} |", f"{span.line} | {source}", f"{margin} | {marks}{' ' + word if word else ''}"]
    return out
