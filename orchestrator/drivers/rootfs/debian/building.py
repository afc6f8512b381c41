"""One build: packages by mmdebstrap(1), then the recipe's files, then its lines, in namespaces that end with us.

In: a recipe and an empty folder. Out: the folder filled, lines of the log as they come. What runs on the host gets
the recipe's words as arguments, never as a program; what runs inside is chrooted, in mount and pid namespaces of its
own, so that a kill -9 of ours leaves neither a mount nor a process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from orchestrator.drivers.rootfs.debian import apt
from orchestrator.errors import HostError, StepError
from orchestrator.model.images import Recipe, RecipeFile
from orchestrator.supervisor import identity
from orchestrator.supervisor.kernel.mounts import open_beneath

Told = Callable[[str], object]

_GUARDED = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "--",
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child=KILL",
    "--",
)

# $1: the root, $2: the line. Devices as mmdebstrap gives them; services that packages would start are refused.
_INSIDE = """
set -e
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=0755 dev "$1/dev"
for each in null zero full random urandom tty; do : >"$1/dev/$each"; mount --bind "/dev/$each" "$1/dev/$each"; done
ln -s /proc/self/fd "$1/dev/fd"
exec chroot "$1" /usr/bin/env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /bin/sh -e -c "$2"
"""
_POLICY = "#!/bin/sh\nexit 101\n"  # invoke-rc.d(8): nothing is to be started


def build(recipe: Recipe, folder: Path, log: IO[bytes], told: Told) -> None:
    """StepError with the log's last words where it fails."""
    if shutil.which("mmdebstrap") is None:
        raise HostError(f"{recipe.name}: mmdebstrap is not installed", hint="apt install mmdebstrap")
    _packages(recipe, folder, log, told)
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for each in recipe.files:
            _put(root, each, recipe)
    finally:
        os.close(root)
    if recipe.run:
        _run(recipe, folder, log, told)


def _packages(recipe: Recipe, folder: Path, log: IO[bytes], told: Told) -> None:
    options = [
        *("--mode=root", f"--variant={recipe.variant}", "--format=directory", "--verbose"),
        *("--aptopt=APT::Install-Recommends false", "--aptopt=Acquire::Languages none"),
        *(f"--aptopt={each}" for each in apt.settings()),
        *(f"--include={each}" for each in recipe.packages),
    ]
    if Path("/etc/apt/auth.conf.d").is_dir():
        options.append("--aptopt=Dir::Etc::netrcparts /etc/apt/auth.conf.d/")
    sources = "".join(f"{line}\n" for line in apt.sources_of(recipe.suite))
    command = ("mmdebstrap", *options, recipe.suite, os.fspath(folder), "-")
    _watched(command, recipe, log, told, stdin=sources)


def _run(recipe: Recipe, folder: Path, log: IO[bytes], told: Told) -> None:
    policy, resolv = folder / "usr/sbin/policy-rc.d", folder / "etc/resolv.conf"
    policy.write_text(_POLICY)
    policy.chmod(0o755)
    if not resolv.is_symlink():  # gone again when the tree is made normal
        resolv.write_bytes(Path("/etc/resolv.conf").read_bytes())
    for line in recipe.run:
        told(f"$ {line}")
        log.write(f"$ {line}\n".encode())
        _watched(("sh", "-c", _INSIDE, "sh", os.fspath(folder), line), recipe, log, told, what=line)


def _watched(
    command: Sequence[str],
    recipe: Recipe,
    log: IO[bytes],
    told: Told,
    *,
    stdin: str = "",
    what: str = "mmdebstrap",
) -> None:
    """Runs to its end; each line of output goes into the log and is told."""
    process = subprocess.Popen(
        [*_GUARDED, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        umask=0o022,
    )
    assert process.stdin is not None and process.stdout is not None
    last: list[str] = []
    why = ""
    try:
        process.stdin.write(stdin.encode())
        process.stdin.close()
        for raw in process.stdout:
            log.write(raw)
            line = raw.decode(errors="replace").strip()
            if line:
                told(line)
                last = [*last[-11:], line]
                if line.startswith("E: ") and not why:  # apt's own first word of it
                    why = line.removeprefix("E: ")
        code = process.wait()
    except BrokenPipeError:
        code = process.wait()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    if code:
        log.flush()
        raise StepError(
            f"{recipe.name}: {what} failed{f': {why}' if why else f' (exit {code})'}",
            hint="\n".join(
                ("the log ends with", *(f"  {each[:160]}" for each in last), f"all of it: {log.name}")
            ),
        )


def _put(root: int, file: RecipeFile, recipe: Recipe) -> None:
    """A recipe's file, whatever symlinks are on the way: beneath the root."""
    folder, _, name = file.target.rpartition("/")
    try:
        owner = identity.resolve(root, file.owner)
        parent = _directory(root, folder.strip("/"))
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
            with open(fd, "wb") as opened:
                opened.write(file.content.encode("latin-1"))
                os.fchown(fd, owner.uid, owner.gid)
                os.fchmod(fd, file.mode)
        finally:
            os.close(parent)
    except OSError as error:
        raise StepError.of(f"{recipe.name}: cannot put {file.target} in", error) from error


def _directory(root: int, path: str) -> int:
    """O_PATH descriptor of a folder beneath the root, made with its parents where missing."""
    try:
        return open_beneath(root, path or ".", os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        if error.errno != errno.ENOENT or not path:
            raise
        above, _, name = path.rpartition("/")
        parent = _directory(root, above)
        try:
            os.mkdir(name, dir_fd=parent)
            os.chmod(name, 0o755, dir_fd=parent)
        finally:
            os.close(parent)
        return open_beneath(root, path, os.O_PATH | os.O_DIRECTORY)
