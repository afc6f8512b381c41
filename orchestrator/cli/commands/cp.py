"""`cp`: files and folders between this host and a running container, or as a tar stream.

In: two places as people write them (`PATH`, `REF:PATH`, `-`). Out: what was copied and passed over, as it happens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from typing import BinaryIO, cast

from orchestrator.app import App
from orchestrator.cli import running
from orchestrator.errors import UsageError
from orchestrator.supervisor.kernel.mounts import open_beneath
from orchestrator.transfer import copying
from orchestrator.transfer.copying import Progress, Side
from orchestrator.transfer.entries import Skipped
from orchestrator.transfer.writing import Owners


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`archive`: owners stay; `follow`: a symlink that SRC names is followed."""

    source: str
    target: str
    archive: bool = False
    follow: bool = False


@dataclass(frozen=True, slots=True)
class _Inside:
    ref: str
    path: str


def cp(app: App, request: Request, stdin: BinaryIO, stdout: BinaryIO) -> Iterator[Progress | Skipped]:
    """Raises UsageError for two places that do not go together, StepError for what cannot be read or written."""
    source, target = _place(request.source), _place(request.target)
    inside = source if isinstance(source, _Inside) else target
    if not isinstance(inside, _Inside) or isinstance(source, _Inside) is isinstance(target, _Inside):
        raise UsageError(
            "one of SRC and DST is a path in a container, the other one is of this host",
            hint="write the one as REF:PATH",
        )
    root = app.runtime.root(running.find(app, inside.ref))
    try:
        there = Side(opener=partial(open_beneath, root), path=inside.path, name=f"{inside.ref}:")
        if isinstance(source, str):
            owners = Owners(keep=request.archive)
            if source == "-":
                yield from copying.unpack(cast(BufferedReader, stdin), there, owners=owners)
            else:
                here = Side(opener=copying.host, path=source)
                yield from copying.copy(here, there, owners=owners, follow=request.follow)
        elif target == "-":
            yield from copying.pack(there, stdout, follow=request.follow)
        else:
            here = Side(opener=copying.host, path=str(target))
            owners = Owners(keep=request.archive, plain=True)
            yield from copying.copy(there, here, owners=owners, follow=request.follow)
    finally:
        os.close(root)


def _place(text: str) -> str | _Inside:
    """`web-1:/etc`, `shop:web-1:etc`; a path of the host that holds a colon begins with / or a dot."""
    if ":" not in text or text.startswith(("/", ".")):
        if not text:
            raise UsageError("an empty path")
        return text
    found = re.fullmatch(r"(.+?):(/.*)", text, re.DOTALL)
    ref, path = (found[1], found[2]) if found else (text.rpartition(":")[0], text.rpartition(":")[2])
    if not ref or not path:
        raise UsageError(f"{text!r} is not REF:PATH", hint="write it like web-1:/etc/hosts")
    return _Inside(ref, path)
