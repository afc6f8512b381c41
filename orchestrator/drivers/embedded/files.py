"""The interface files and folders of cgroups, by plain system calls: a thousand containers have some thousands of them.

In: paths. Out: bytes, or OSError with the path. Must not know what the files mean.
"""

from __future__ import annotations

# ruff: noqa: PTH102, PTH120
import os


def make(path: str) -> bool:
    """mkdir -p; whether the folder is new."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return False
    except FileNotFoundError:
        make(os.path.dirname(path))
        return make(path)
    return True


def read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (writing {text.strip()!r})", path) from error
    finally:
        os.close(fd)
