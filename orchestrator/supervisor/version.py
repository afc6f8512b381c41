"""Which code this is, so that a client notices when the supervisor that answers runs older code than its own.

In: our own sources. Out: a short text. Each process asks once, at its start.
"""

from __future__ import annotations

import os
import zlib
from functools import cache


@cache
def version() -> str:
    """A checksum over the sources of this package: what client and supervisor say to each other is all in it."""
    here, found = os.path.dirname(__file__), 0
    for folder in (here, f"{here}/kernel"):
        for name in sorted(os.listdir(folder)):
            if name.endswith(".py"):
                with open(f"{folder}/{name}", "rb") as file:
                    found = zlib.crc32(file.read(), zlib.crc32(name.encode(), found))
    return f"{found:08x}"
