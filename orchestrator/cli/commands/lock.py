"""`lock`: the lock file of stack files written, checked or taken anew."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.app import App
from orchestrator.app.locking import Move, moves, names_of
from orchestrator.control.reading import InvalidManifest, Read
from orchestrator.diagnostics import Diagnostic, Severity
from orchestrator.errors import HostError, UsageError
from orchestrator.manifest.load import Manifest
from orchestrator.manifest.lock import Lock, Roots, read_lock
from orchestrator.ports.images import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One lock file. `changed`: whether its bytes did."""

    path: str
    changed: bool
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What is wrong with one root in the lock, in words."""

    path: str
    stack: str
    name: str
    text: str


def check(app: App, read: Read, file: str | None) -> tuple[Checked, ...]:
    """Asks nobody, builds nothing."""
    found = []
    for manifest in read.manifests.values():
        path, lock = _lock(manifest, file)
        for each in app.locks.misfits(manifest, lock, path):
            found.append(Checked(path=path, stack=manifest.name, name=each.name, text=each.text))
    return tuple(found)


def lock(
    app: App, read: Read, file: str | None, *, update: Sequence[str] | None, watch: Watch
) -> tuple[Written, ...]:
    """Each lock file, written. `update`: the names of roots that are taken anew, all of them where it is empty; None: only
    what the lock lacks is looked up. Raises InvalidManifest; then nothing was written."""
    manifests = tuple(read.manifests.values())
    known = names_of(manifests)
    for name in update or ():
        if name not in known:
            raise UsageError(
                f"no root that can be locked is called {name!r}",
                hint=f"there are: {', '.join(known) or 'none'}",
            )
    chosen = frozenset(() if update is None else (update or known))
    stacks: dict[str, dict[str, Roots]] = {}
    moved: dict[str, list[Move]] = {}
    problems: list[Diagnostic] = []
    for manifest in manifests:
        path, before = _lock(manifest, file)
        roots, found = app.locks.renewed(manifest, before, path, update=chosen, watch=watch)
        problems += found
        stacks.setdefault(path, {})[manifest.name] = roots
        moved.setdefault(path, []).extend(moves(manifest, before, roots))
    if problems:
        raise InvalidManifest(problems, read.sources, files=read.files, bound=read.bound)
    return tuple(
        Written(path=path, changed=app.locks.write(path, roots), moves=tuple(moved[path]))
        for path, roots in stacks.items()
        if any(roots.values()) or Path(path).exists()
    )


def _lock(manifest: Manifest, file: str | None) -> tuple[str, Lock | None]:
    """The absolute path of the manifest's lock, and what it holds."""
    if file is None:
        return manifest.lock_file, manifest.lock
    path = os.path.abspath(file)  # noqa: PTH100
    try:
        text = Path(path).read_text("utf-8")
    except FileNotFoundError:
        return path, None
    except (OSError, ValueError) as error:
        word = (getattr(error, "strerror", None) or str(error)).lower()
        raise HostError(f"{file}: {word}") from error
    found, problems = read_lock(text, file)
    if any(each.severity is Severity.ERROR for each in problems):
        raise InvalidManifest(problems, {file: text}, files=frozenset(), bound=frozenset())
    return path, found
