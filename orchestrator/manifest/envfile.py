"""Files of KEY=VALUE lines: `env_file:`, `--env-file` and the `.env` beside a stack file.

In: a text. Out: entries with their places, and diagnostics. Empty lines and lines that begin with # are skipped; a value
is taken as it stands, without a pair of quotes around the whole of it. Nothing is expanded. The text is never shown in a
message: it may hold secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.errors import ManifestError
from orchestrator.manifest.codes import Code

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_LARGEST = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvEntry:
    """One line: `name`, `value` and where it stands."""

    name: str
    value: str
    span: Span


def parse_env(text: str, file: str) -> tuple[tuple[EnvEntry, ...], tuple[Diagnostic, ...]]:
    """The entries of one file, in order; a later line wins over an earlier one of the same name."""
    entries: dict[str, EnvEntry] = {}
    problems = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name = name.removeprefix("export ").strip()
        span = Span(file=file, line=number, column=1, width=max(1, len(name)))
        if not equals or not _KEY.fullmatch(name) or "\0" in value:
            problems.append(
                Diagnostic(
                    code=Code.ENV_FILE,
                    message=f"line {number} is not KEY=VALUE",
                    span=span,
                    hint="write NAME=value, one to a line",
                )
            )
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        entries[name] = EnvEntry(name=name, value=value, span=span)
    return tuple(entries.values()), tuple(problems)


def load_env(path: str, *, asked: Span | None = None) -> tuple[tuple[EnvEntry, ...], tuple[Diagnostic, ...]]:
    """The entries of the file at `path`; a file that cannot be read is a diagnostic at `asked`, where it was named."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        word = (getattr(error, "strerror", None) or str(error)).lower()
        return (), (_missing(f"env file {path}: {word}", asked),)
    if len(raw) > _LARGEST:
        return (), (_missing(f"env file {path} is larger than 1 MiB", asked),)
    try:
        return parse_env(raw.decode("utf-8-sig"), path)
    except UnicodeDecodeError:
        return (), (_missing(f"env file {path} is not UTF-8 text", asked),)


def read_env(path: str) -> Mapping[str, str]:
    """The file at `path` as a mapping, for `--env-file`; raises ManifestError."""
    entries, problems = load_env(path)
    if problems:
        raise ManifestError(problems)
    return {each.name: each.value for each in entries}


def _missing(message: str, span: Span | None) -> Diagnostic:
    return Diagnostic(
        code=Code.ENV_FILE_MISSING,
        message=message,
        span=span,
        hint="paths are relative to the file that names them",
    )
