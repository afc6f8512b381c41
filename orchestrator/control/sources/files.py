"""One source of files, read once: its settings, and what they give today.

In: paths and variables as they were when watching began. Out: stacks that this host can have, or problems rendered as the
command line shows them, and every path to be watched. Touches nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.control import reading
from orchestrator.control.reading import InvalidManifest, Read, Reader
from orchestrator.control.sources.places import Places
from orchestrator.diagnostics import Diagnostic, Severity, Span, render
from orchestrator.errors import ManifestError, OrchestratorError
from orchestrator.model.desired import Stack
from orchestrator.ports.images import Progress

KIND = "files"

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`paths` and `env_files` as given in `folder`; `variables`: those of the environment that manifests refer to. `here`:
    the command that watches reads it itself, without the agent."""

    paths: tuple[str, ...]
    env_files: tuple[str, ...]
    folder: str
    variables: Mapping[str, str]
    here: bool = False

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Settings:
        """From what `encode` made."""
        return cls(**{**data, "paths": tuple(data["paths"]), "env_files": tuple(data["env_files"])})

    def encode(self) -> dict[str, Any]:
        return asdict(self)

    def absolute(self, paths: Iterable[str]) -> tuple[str, ...]:
        return tuple(os.path.normpath(os.path.join(self.folder, each)) for each in paths)  # noqa: PTH118

    @property
    def places(self) -> Places:
        """What to watch before anything was read."""
        return Places(files=frozenset(self.absolute((*self.paths, *self.env_files))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One diagnostic. `text`: as the command line shows it. `code` is empty where it is not about the text."""

    code: str
    severity: str
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`stacks` is empty where an error is among the `troubles`. `places`: what it depends on."""

    stacks: tuple[Stack, ...]
    troubles: tuple[Trouble, ...]
    places: Places

    @property
    def failed(self) -> bool:
        return any(each.severity == Severity.ERROR for each in self.troubles)


def variables(read: Read, environ: Mapping[str, str]) -> dict[str, str]:
    """Those of `environ` that the texts refer to."""
    names = {name for text in read.sources.values() for name in _VARIABLE.findall(text)}
    return {name: environ[name] for name in sorted(names) if name in environ}


def read(app: Reader, settings: Settings) -> Found:
    """What the source gives now."""
    paths, env_files = settings.absolute(settings.paths), settings.absolute(settings.env_files)
    places = settings.places
    try:
        done = reading.read(app, paths, env_files, settings.variables)
        places |= Places(files=done.files, bound=done.bound)
        reading.check(app, done)
        done = reading.rooted(app, done, fetch=_silently)
    except InvalidManifest as error:
        troubles = _Shown(settings, error.sources).troubles(error.diagnostics)
        places |= Places(files=error.files, bound=error.bound)
        return Found(stacks=(), troubles=troubles, places=places)
    except ManifestError as error:
        return Found(stacks=(), troubles=_Shown(settings, {}).troubles(error.diagnostics), places=places)
    except OrchestratorError as error:
        return Found(stacks=(), troubles=(trouble(error),), places=places)
    troubles = _Shown(settings, done.sources).troubles(done.warnings)
    return Found(stacks=done.stacks, troubles=troubles, places=places)


def _silently(progress: Progress) -> None:
    """Nobody looks on."""


def trouble(error: OrchestratorError, *, hint: str | None = None) -> Trouble:
    """What is not about a place in a text."""
    hint = hint or error.hint
    text = f"error: {error.message}\n" + (f"  hint: {hint}\n" if hint else "")
    return Trouble(code="", severity=Severity.ERROR, message=error.message, text=text)


class _Shown:
    """Diagnostics with the names of files as they were given, not as absolute as they are read."""

    def __init__(self, settings: Settings, sources: Mapping[str, str]) -> None:
        given = dict(zip(settings.absolute(settings.paths), settings.paths, strict=True))
        self._names = dict(given)
        for file in sources:
            folder, name = os.path.split(file)
            if folder in given:
                self._names.setdefault(file, os.path.join(given[folder], name))  # noqa: PTH118
        self._texts = {self._names.get(file, file): text for file, text in sources.items()}

    def troubles(self, diagnostics: Sequence[Diagnostic]) -> tuple[Trouble, ...]:
        return tuple(self._trouble(each) for each in diagnostics)

    def _trouble(self, each: Diagnostic) -> Trouble:
        message = each.message
        for file in sorted(self._names, key=len, reverse=True):
            if message.startswith((f"{file} ", f"{file}:")):
                message = self._names[file] + message.removeprefix(file)
                break
        shown = replace(
            each,
            message=message,
            span=self._span(each.span) if each.span else None,
            related=tuple((self._span(span), word) for span, word in each.related),
        )
        return Trouble(
            code=str(each.code),
            severity=each.severity.value,
            message=message,
            file=shown.span.file if shown.span else None,
            line=shown.span.line if shown.span else None,
            column=shown.span.column if shown.span else None,
            text=render([shown], self._texts),
        )

    def _span(self, span: Span) -> Span:
        return replace(span, file=self._names.get(span.file, span.file))
