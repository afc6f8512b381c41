"""One build: packages by mmdebstrap(1), then the recipe's files, then its lines, in namespaces that end with us.

In: a recipe, an empty folder, another one for temporary files. Out: the folder filled, lines of the log as they come.
What runs on the host gets the recipe's words as arguments, never as a program; its lines run inside, confined as containers
are (`confined`); all in mount and pid namespaces that end with us, so that a kill -9 leaves neither a mount nor a process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import orchestrator
from orchestrator.drivers.rootfs.debian import apt, beneath, running
from orchestrator.drivers.rootfs.debian.confined import line_program
from orchestrator.errors import HostError, StepError
from orchestrator.model.images import Recipe, RecipeFile
from orchestrator.supervisor import identity
from orchestrator.supervisor.program import to_wire
from orchestrator.supervisor.seccomp import default_filter

Told = Callable[[str], object]

_GUARDED = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "--",
    "unshare",
    "--mount",
    "--pid",
    "--ipc",
    "--uts",
    "--fork",
    "--mount-proc",
    "--kill-child=KILL",
    "--",
)

_ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SOURCE_DATE_EPOCH": "1577836800",  # 2020-01-01, for what asks; times of files are those of packages
}
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_POLICY = b"#!/bin/sh\nexit 101\n"  # invoke-rc.d(8): nothing is to be started


def build(recipe: Recipe, folder: Path, scratch: Path, log: IO[bytes], told: Told) -> None:
    """StepError with the log's last words where it fails. `scratch`: whoever kills us finds nothing of ours elsewhere."""
    if shutil.which("mmdebstrap") is None:
        raise HostError(f"{recipe.name}: mmdebstrap is not installed", hint="apt install mmdebstrap")
    _packages(recipe, folder, scratch, log, told)
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for each in recipe.files:
            _put(root, each, recipe)
        if recipe.run:
            run_lines(recipe, folder, root, log, told)
    finally:
        os.close(root)


def _packages(recipe: Recipe, folder: Path, scratch: Path, log: IO[bytes], told: Told) -> None:
    options = [
        *("--mode=root", f"--variant={recipe.variant}", "--format=directory", "--verbose"),
        *("--aptopt=APT::Install-Recommends false", "--aptopt=Acquire::Languages none"),
        *(f"--aptopt={each}" for each in apt.settings()),
        *(f"--include={each}" for each in recipe.packages),
    ]
    # apt_auth.conf(5); else they are looked for in the new root.
    if Path("/etc/apt/auth.conf").is_file():
        options.append("--aptopt=Dir::Etc::netrc /etc/apt/auth.conf")
    if Path("/etc/apt/auth.conf.d").is_dir():
        options.append("--aptopt=Dir::Etc::netrcparts /etc/apt/auth.conf.d/")
    sources = "".join(f"{line}\n" for line in apt.sources_of(recipe.suite))
    command = ("mmdebstrap", *options, recipe.suite, os.fspath(folder), "-")
    # Ended by a signal, it leaves its gpg's folder behind.
    _watched(command, recipe, log, told, stdin=sources, env={"TMPDIR": os.fspath(scratch)})


def run_lines(recipe: Recipe, folder: Path, root: int, log: IO[bytes], told: Told) -> None:
    """Its `run`, one after another, until one fails. `root`: the descriptor of `folder`. StepError."""
    library = os.fspath(Path(orchestrator.__file__).parent.parent)
    python = (os.path.realpath(sys.executable), "-I", "-S", "-X", "utf8", "-c", running.BOOT, library)
    lent = {"/usr/sbin/policy-rc.d": (_POLICY, 0o755), "/etc/resolv.conf": (_resolvers(), 0o644)}
    lent = {path: each for path, each in lent.items() if not beneath.exists(root, path)}
    for path, (content, mode) in lent.items():
        beneath.write(root, path, content, mode)
    filter = default_filter()
    for line in recipe.run:
        told(f"$ {line}")
        log.write(f"$ {line}\n".encode())
        program = line_program(os.fspath(folder), line, env=_environment(), filter=filter)
        _watched(python, recipe, log, told, stdin=json.dumps(to_wire(program)), what=line)
    for path in lent:
        beneath.remove(root, path)


def _resolvers() -> bytes:
    try:
        return Path("/etc/resolv.conf").read_bytes()
    except OSError:
        return b""


def _environment() -> dict[str, str]:
    """Nothing of ours but the way out."""
    return {**_ENVIRONMENT, **{name: os.environ[name] for name in _PROXIES if name in os.environ}}


def _watched(
    command: Sequence[str],
    recipe: Recipe,
    log: IO[bytes],
    told: Told,
    *,
    stdin: str = "",
    what: str = "mmdebstrap",
    env: Mapping[str, str] | None = None,
) -> None:
    """Runs to its end; each line of output goes into the log and is told."""
    process = subprocess.Popen(
        [*_GUARDED, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**_environment(), **(env or {})},
        cwd="/",
        umask=0o022,
    )
    assert process.stdin is not None and process.stdout is not None
    last: list[str] = []
    why = ""
    try:
        for raw in process.stdout:
            if not process.stdin.closed:
                # At its first line: it dies with us from there on, and finds nothing to do if we died before.
                process.stdin.write(stdin.encode())
                process.stdin.close()
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
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
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
    try:
        owner = identity.resolve(root, file.owner)
        beneath.write(root, file.target, file.content.encode("latin-1"), file.mode, (owner.uid, owner.gid))
    except OSError as error:
        raise StepError.of(f"{recipe.name}: cannot put {file.target} in", error) from error
