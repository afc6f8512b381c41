"""Registries through skopeo(1): the transport, with the files for credentials, mirrors and certificates that people have.

In: names of images. Out: raw manifests and configurations, blobs in a folder. TLS is verified; plain http is spoken
only to loopback, or where registries.conf(5) says that a registry is insecure. Must not believe what comes: digests
are others' work.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from orchestrator.errors import HostError, StepError

PATIENCE = 60.0
"""Seconds in which a registry must say something, or a copy go on."""
_LARGEST = 8 << 20  # bytes of a manifest or configuration
_LOOK = 0.1  # seconds between looks at a copy

_MESSAGE = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')
_PLAIN_HTTP = re.compile(
    "server gave HTTP response to HTTPS client|first record does not look like a TLS handshake"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """An image of a registry. `text` as skopeo takes it: with a digest the tag goes, for it takes one of the two alone."""

    host: str
    path: str
    tag: str | None
    digest: str | None

    @classmethod
    def of(cls, name: str) -> Reference:
        """From `docker://HOST/PATH[:TAG][@DIGEST]`."""
        text, _, digest = name.removeprefix("docker://").partition("@")
        host, _, rest = text.partition("/")
        path, _, tag = rest.partition(":")
        return cls(host, path, tag or None, digest or None)

    def at(self, digest: str) -> Reference:
        return Reference(self.host, self.path, self.tag, digest)

    @property
    def text(self) -> str:
        end = f"@{self.digest}" if self.digest else f":{self.tag or 'latest'}"
        return f"docker://{self.host}/{self.path}{end}"

    @property
    def loopback(self) -> bool:
        name = self.host.rpartition(":")[0] if re.search(r":[0-9]+$", self.host) else self.host
        try:
            return ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")


def manifest(reference: Reference) -> bytes:
    """The raw manifest or index."""
    return _asked(reference, ("inspect", "--raw"))


def config(reference: Reference) -> bytes:
    """The raw configuration of an image that is named by its manifest's digest."""
    return _asked(reference, ("inspect", "--config", "--raw"))


def copy(
    reference: Reference, blobs: Path, *, preserve: bool, done: Callable[[], int], ready: Callable[[], object]
) -> None:
    """Have the blobs of an image in `blobs`/sha256. `done`: bytes so far; `ready` is called again and again meanwhile.
    `preserve`: take layers as they are, also plain ones."""
    with tempfile.TemporaryDirectory(dir=blobs.parent, prefix="layout-") as layout:
        options = ("--dest-shared-blob-dir", str(blobs), *(("--preserve-digests",) if preserve else ()))
        for tls in _attempts(reference):
            command = ("copy", *options, *tls("--src-tls-verify=false"), reference.text, f"oci:{layout}:x")
            with _running(command, reference) as (process, said):
                size, since = -1, time.monotonic()
                while process.poll() is None:
                    ready()
                    now = time.monotonic()
                    if (found := done()) != size:
                        size, since = found, now
                    if now - since > PATIENCE:
                        raise StepError(
                            f"{reference.text}: {reference.host} sent nothing for {PATIENCE:.0f} s",
                            hint="what has come is kept for the next attempt",
                        )
                    time.sleep(_LOOK)
                if process.returncode == 0:
                    return
                words = said()
            if tls("x") or not _PLAIN_HTTP.search(words):
                raise _told(reference, words)
        raise _told(reference, words)


def _asked(reference: Reference, verb: Sequence[str]) -> bytes:
    words = ""
    for tls in _attempts(reference):
        command = ("--command-timeout", f"{PATIENCE:.0f}s", *verb, *tls("--tls-verify=false"), reference.text)
        with _running(command, reference) as (process, said):
            assert process.stdout is not None
            answer = process.stdout.read(_LARGEST + 1)
            if len(answer) > _LARGEST:
                raise StepError(f"{reference.text}: {reference.host} answers with more than {_LARGEST} bytes")
            if process.wait() == 0:
                return answer
            words = said()
        if not _PLAIN_HTTP.search(words):
            break
    raise _told(reference, words)


def _attempts(reference: Reference) -> Iterator[Callable[[str], tuple[str, ...]]]:
    """With TLS, then, on loopback, without."""
    yield lambda option: ()
    if reference.loopback:
        yield lambda option: (option,)


@contextmanager
def _running(
    command: Sequence[str], reference: Reference
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """The process, ended with the block and with us; and what it complained of."""
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        raise HostError(f"{reference.text}: skopeo is not installed", hint="apt install skopeo")
    guard = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*guard, skopeo, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )

        def said() -> str:
            errors.seek(max(0, errors.seek(0, 2) - 8192))
            return errors.read().decode(errors="replace")

        try:
            yield process, said
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _told(reference: Reference, words: str) -> StepError:
    """What skopeo complains of, in short."""
    found = _MESSAGE.findall(words)
    text = found[-1].replace('\\"', '"') if found else words.strip().rpartition("\n")[2]
    text = "".join(each if each.isprintable() else " " for each in text)
    low, host, name = text.lower(), reference.host, reference.text
    if "no space left" in low:
        return StepError(
            f"{name}: no space left on device", hint="make room, then again: what has come is kept"
        )
    if any(each in low for each in ("unauthorized", "authentication required", "denied", "status code 401")):
        return StepError(
            f"{name}: {host} wants other credentials", hint=f"`skopeo login {host}` or `docker login {host}`"
        )
    if any(
        each in low for each in ("manifest unknown", "name unknown", "repository name not known", "not found")
    ):
        return StepError(f"{name}: {host} has no such image")
    if _PLAIN_HTTP.search(text):
        return StepError(
            f"{name}: {host} speaks plain http",
            hint="only loopback may; for others say insecure = true in /etc/containers/registries.conf",
        )
    if "x509" in low or "certificate" in low or "tls:" in low:
        return StepError(
            f"{name}: the certificate of {host} is not trusted: {text.rpartition(': ')[2]}",
            hint=f"put its CA into /etc/containers/certs.d/{host}/ca.crt",
        )
    unreachable = (
        "connection refused",
        "no such host",
        "i/o timeout",
        "unreachable",
        "deadline exceeded",
        "eof",
    )
    if any(each in low for each in unreachable):
        return StepError(
            f"{name}: cannot reach {host}: {text.rpartition(': ')[2]}", hint="is it up? then again"
        )
    return StepError(f"{name}: {text[-300:] or 'skopeo failed without a word'}")
