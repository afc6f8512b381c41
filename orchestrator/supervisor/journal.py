"""The exits of one container: a file of JSON lines, appended to before anybody is told, and kept short.

A line: started, ended (CLOCK_BOOTTIME seconds), code | signal | error, oom, stopped, starts (how many starts of this boot
it was), boot. In and out: plain dicts; the client makes `Exit` values of them.
"""

from __future__ import annotations

import json
import os
from typing import Any

from orchestrator.supervisor.facts import boot_id

KEPT = 16
_MAX_SIZE = 64 * 1024


def append(path: str, exit: dict[str, Any]) -> None:
    """Add one line. A torn last line (a kill in the middle) is ended first. Raises OSError, also where the folder was
    removed: then nobody wants to know any more."""
    line = json.dumps(exit, separators=(",", ":")).encode() + b"\n"
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line
        os.write(fd, line)
    finally:
        os.close(fd)
    if size > _MAX_SIZE:
        _shorten(path)


def read(path: str) -> list[dict[str, Any]]:
    """The exits of this boot, newest last, at most 16; else the last one of an earlier boot if it was a success, its
    times set to 0."""
    lines, boot = _lines(path), boot_id()
    own = [each for each in lines if each.get("boot") == boot]
    if own:
        return own[-KEPT:]
    last = lines[-1] if lines else {}
    if last.get("code") == 0 and last.get("error") is None:
        return [{**last, "started": 0.0, "ended": 0.0, "starts": 0}]
    return []


def _lines(path: str) -> list[dict[str, Any]]:
    found = []
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return []
    for line in text.splitlines():
        try:
            each = json.loads(line)
            found.append({**each, "started": float(each["started"]), "ended": float(each["ended"])})
        except (ValueError, TypeError, KeyError):
            continue  # torn by a kill or a full disk
    return found


def _shorten(path: str) -> None:
    kept = b"".join(json.dumps(each, separators=(",", ":")).encode() + b"\n" for each in _lines(path)[-KEPT:])
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, kept)
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)
