"""Parts of requests as the supervisor needs them, and errors as it answers them.

In: headers of frames, exceptions. Out: values and plain dicts.
"""

from __future__ import annotations

from typing import Any

from orchestrator.supervisor.kernel import CallError
from orchestrator.supervisor.launcher import Birth


def birth_of(header: dict[str, Any]) -> Birth:
    """What a request says of how its process is born."""
    return Birth(
        new=tuple(header["new"]),
        cgroup=header["cgroup"],
        cgroups=tuple(header["cgroups"]),
        uid_maps=header["uid_maps"],
        gid_maps=header["gid_maps"],
    )


def folder_name(id: str) -> str:
    """The id, which becomes the name of a folder; raises ValueError where it cannot be one."""
    if not id or "/" in id or id.startswith("."):
        raise ValueError(f"{id!r} is not an id")
    return id


def answer_of(error: Exception, operation: Any) -> dict[str, Any]:
    """The error as an answer; a failed clone is told as an operation of the program."""
    answer: dict[str, Any] = {"message": str(error) or type(error).__name__}
    if isinstance(error, CallError) and operation in ("launch", "run", "exec"):
        answer |= {"operation": "clone", "call": error.call, "argument": error.argument, "errno": error.errno}
    return answer
