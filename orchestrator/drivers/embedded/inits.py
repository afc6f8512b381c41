"""The host's small init, which `init: true` binds into a container as its process 1.

In: the host's files. Out: a path. Never Python (design: process 1 only reaps and passes signals on).
"""

from __future__ import annotations

import os

INITS = (
    "/usr/bin/catatonit",
    "/usr/libexec/podman/catatonit",
    "/usr/bin/tini-static",
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
    "/usr/bin/tini",
)


def host_init() -> str | None:
    """The host's small init, preferring those that need no library of the rootfs."""
    return next((each for each in INITS if os.access(each, os.X_OK)), None)
