"""What the files of secrets and configs hold.

In: a path, or a text written in the manifest. Out: bytes, or a diagnostic at the place that names them. Neither content nor
any part of it is ever shown: it may be a secret.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.manifest.codes import Code

LARGEST = 1024 * 1024
_TOO_LARGE = "is larger than 1 MiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The bytes, and the absolute path of the file that holds them (None: they stand in the manifest)."""

    data: bytes = field(repr=False)
    path: str | None = None


def read_content(
    path: str | None, text: str | None, *, asked: Span
) -> tuple[Content | None, Diagnostic | None]:
    """The content of the file at `path`, or `text`; one of the two is given."""
    if path is None:
        data = (text or "").encode()
        if len(data) > LARGEST:
            return None, _problem(f"the content {_TOO_LARGE}", asked)
        return Content(data=data), None
    try:
        # Without O_NONBLOCK a FIFO would hang us until somebody writes to it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None, _problem(f"{path} is not a regular file", asked)
            with open(fd, "rb", closefd=False) as file:
                data = file.read(LARGEST + 1)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        word = (getattr(error, "strerror", None) or str(error)).lower()
        return None, _problem(f"{path}: {word}", asked)
    if len(data) > LARGEST:
        return None, _problem(f"{path} {_TOO_LARGE}", asked)
    return Content(data=data, path=path), None


def _problem(message: str, span: Span) -> Diagnostic:
    return Diagnostic(
        code=Code.CONTENT,
        message=message,
        span=span,
        hint="a secret or config is a file of at most 1 MiB; its path is relative to the file that names it",
    )
