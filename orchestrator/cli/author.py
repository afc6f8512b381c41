"""Who gives a command, for the history: the user behind sudo, or the one that we run as."""

from __future__ import annotations

import os
import pwd


def author(verb: str) -> str:
    """`ann: restart`."""
    return f"{os.environ.get('SUDO_USER') or _own_name()}: {verb}"


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
