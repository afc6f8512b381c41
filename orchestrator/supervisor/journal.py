"""The exits of one container: a file of JSON lines, appended to before anybody is told, and kept short.

A line: started, ended (CLOCK_BOOTTIME seconds), code | signal | error, oom, stopped, fault, starts (how many starts of this
boot it was), boot; or, without `ended`, that a process began, so that a later boot knows of one that the power cut off. In
and out: plain dicts; the client makes `Exit` values of them.
"""

from __future__ import annotations

import json
import os
from typing import Any

from orchestrator.supervisor.facts import boot_id

KEPT = 16
_MAX_SIZE = 64 * 1024


def append(path: str, line: dict[str, Any]) -> None:
    """Add one line, of this boot. A torn last line (a kill in the middle) is ended first. Raises OSError, also where the
    folder was removed: then nobody wants to know any more."""
    text = json.dumps({**line, "boot": boot_id()}, separators=(",", ":")).encode() + b"\n"
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            text = b"\n" + text
        os.write(fd, text)
    finally:
        os.close(fd)
    if size > _MAX_SIZE:
        _shorten(path)


def read(path: str) -> list[dict[str, Any]]:
    """The exits, newest last, at most 16. Those of an earlier boot have times and `starts` 0; what ran when it ended has an
    unknown one."""
    found: list[dict[str, Any]] = []
    begun: dict[str, Any] | None = None
    for line in _lines(path):
        if begun is not None and _start(line) != _start(begun):
            found.append({**begun, "ended": line["started"]})  # a full disk kept its end from being recorded
        begun = None if "ended" in line else line
        if begun is None:
            found.append(line)
    boot = boot_id()
    if begun is not None and begun["boot"] != boot:
        found.append(begun)
    return [
        each if each["boot"] == boot else {**each, "started": 0.0, "ended": 0.0, "starts": 0}
        for each in found[-KEPT:]
    ]


def _start(line: dict[str, Any]) -> tuple[str, Any]:
    return line["boot"], line.get("starts")


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
            times = {name: float(each[name]) for name in ("started", "ended") if name in each}
            found.append({**each, "boot": str(each["boot"]), "started": times["started"], **times})
        except (ValueError, TypeError, KeyError):
            continue  # torn by a kill or a full disk
    return found


def _shorten(path: str) -> None:
    lines = _lines(path)[-2 * KEPT :]
    kept = b"".join(json.dumps(each, separators=(",", ":")).encode() + b"\n" for each in lines)
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, kept)
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)
