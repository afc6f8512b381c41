"""`volume backup` and `restore`: between a volume and a file or a pipe.

In: names and paths of the command line. Out: an exit code; what is to be said goes to stderr.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from orchestrator.app.volumes import Volume, Volumes
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session
from orchestrator.cli.views.text import plural
from orchestrator.errors import StepError, UsageError


def backup(session: Session, name: str, path: str, *, live: bool) -> ExitCode:
    """Raises UsageError for a terminal as target, StepError for what cannot be read or written."""
    volumes = session.app.volumes_here
    volume = volumes.one(name)
    if path == "-" and sys.stdout.isatty():
        raise UsageError(
            "a tar stream is nothing for a terminal", hint="give -o FILE, or send it into a pipe"
        )
    head = session.terminal.paint("warning", "warn", err=True)
    if volume.running and not live:
        session.terminal.complain(f"{head}: {', '.join(volume.running)} may be writing to {volume.ref}")
    same = _to_file(volumes, volume, Path(path)) if path != "-" else volumes.backup(volume, sys.stdout.buffer)
    if not same and not live:
        session.terminal.complain(f"{head}: some files changed while they were read")
    return ExitCode.SETTLED


def restore(session: Session, name: str, path: str, *, replace: bool) -> ExitCode:
    """Raises UsageError where the volume holds data, ConflictError where it is in use, StepError for a stream that is not
    whole."""
    volumes = session.app.volumes_here
    if path == "-":
        if sys.stdin.isatty():
            raise UsageError("a tar stream does not come from a terminal", hint="give a FILE, or a pipe")
        devices = volumes.restore(name, sys.stdin.buffer, over=replace)
    else:
        with _opened(path) as file:
            devices = volumes.restore(name, file, over=replace)
    session.terminal.say(f"{name} is restored")
    if devices:
        head = session.terminal.paint("warning", "warn", err=True)
        session.terminal.complain(f"{head}: {plural(devices, 'device node')} passed over")
    return ExitCode.SETTLED


def _opened(path: str) -> IO[bytes]:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def _to_file(volumes: Volumes, volume: Volume, path: Path) -> bool:
    """Beside it first, for root alone: data of a volume is nobody else's."""
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                same = volumes.backup(volume, file)
                os.fsync(file.fileno())
                Path(file.name).rename(path)
                return same
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StepError.of(str(path), error) from error
