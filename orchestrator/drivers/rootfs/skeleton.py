"""The `host` rootfs: a small folder around the host's /usr, with a private minimal /etc of ours.

In: an empty folder to fill, and the host's root (/). Out: folders, links, /etc. Of the host's /etc only what programs need
to run is copied, and only what every user may read: never shadow, keys, machine-id or configuration of services.
"""

from __future__ import annotations

# ruff: noqa: PTH101, PTH102, PTH112, PTH114, PTH115, PTH116, PTH118, PTH208, PTH211
import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator

VERSION = 1  # raise it when what `fill` makes changes

_FOLDERS = (
    ("boot", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/local", 0o755),
    ("var/log", 0o755),
    ("var/opt", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
)
_LINKS = (("var/run", "/run"), ("var/lock", "/run/lock"), ("etc/mtab", "/proc/self/mounts"))
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")

# Copied where present: what the loader, libc, TLS, terminals and interpreters of /usr read. Links stay links.
_COPIED = (
    "alternatives",
    "bash.bashrc",
    "crypto-policies",
    "debian_version",
    "ethertypes",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "magic",
    "magic.mime",
    "mime.types",
    "networks",
    "os-release",
    "perl",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/ca-trust/extracted",
    "profile",
    "protocols",
    "python3",
    "rpc",
    "services",
    "ssl",
    "terminfo",
    "timezone",
)
_COPIED_STARTS = ("java-", "python3.")
_NEVER = frozenset({"private"})  # folders of keys below what is copied

_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
games:x:5:60:games:/usr/games:/usr/sbin/nologin
man:x:6:12:man:/var/cache/man:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = """\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
man:x:12:
www-data:x:33:
staff:x:50:
games:x:60:
users:x:100:
nogroup:x:65534:
"""
_WRITTEN = (
    ("passwd", _PASSWD),
    ("group", _GROUP),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"),
    ("shells", "/bin/sh\n/bin/bash\n"),
    # Mount points of the group's own files.
    ("hosts", ""),
    ("hostname", ""),
    ("resolv.conf", ""),
)


def key(host: str = "/") -> str:
    """Names what `fill` would make now: changes with our version, the host's libraries, alternatives and certificates."""
    seen = [str(VERSION)]
    for name in ("etc/ld.so.cache", "etc/alternatives", "etc/ssl/certs", "etc/os-release"):
        try:
            found = os.stat(os.path.join(host, name))
            seen.append(f"{name} {found.st_mtime_ns} {found.st_size}")
        except OSError:
            seen.append(f"{name} -")
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()[:16]


def binds(host: str = "/") -> tuple[tuple[str, str], ...]:
    """(source, target) of what is shown read-only over the skeleton: /usr, and /bin and so on where they are folders."""
    names = ("usr", *(each for each in _MERGED if _is_folder(os.path.join(host, each))))
    return tuple((os.path.join(host, each), f"/{each}") for each in names)


def fill(folder: str, host: str = "/") -> None:
    """Make the skeleton in the empty `folder`. Raises OSError with the path."""
    os.chmod(folder, 0o755)
    for name, mode in _FOLDERS:
        path = os.path.join(folder, name)
        os.mkdir(path)
        os.chmod(path, mode)
    for name in _MERGED:
        source = os.path.join(host, name)
        if os.path.islink(source):
            os.symlink(os.readlink(source), os.path.join(folder, name))
        elif os.path.isdir(source):
            os.mkdir(os.path.join(folder, name))
            os.chmod(os.path.join(folder, name), 0o755)
    for name, destination in _LINKS:
        os.symlink(destination, os.path.join(folder, name))
    for name, text in _WRITTEN:
        _put(os.path.join(folder, "etc", name), text.encode())
    for name in _wanted(os.path.join(host, "etc")):
        source, target = os.path.join(host, "etc", name), os.path.join(folder, "etc", name)
        if os.path.lexists(source):
            _folders(os.path.dirname(target))  # noqa: PTH120
            _copy(source, target)


def _wanted(etc: str) -> Iterator[str]:
    yield from _COPIED
    with contextlib.suppress(OSError):
        yield from sorted(each for each in os.listdir(etc) if each.startswith(_COPIED_STARTS))


def _copy(source: str, target: str) -> None:
    """A file, link or tree of the host's /etc; passes over what is not there or not for every user to read."""
    try:
        found = os.lstat(source)
    except OSError:
        return
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISDIR(found.st_mode):
        if found.st_mode & stat.S_IROTH:
            _copy_folder(source, target)
    elif stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IROTH:
        with open(source, "rb") as file:
            _put(target, file.read(), executable=bool(found.st_mode & stat.S_IXOTH))


def _copy_folder(source: str, target: str) -> None:
    os.mkdir(target)
    os.chmod(target, 0o755)
    for name in sorted(os.listdir(source)):
        if name not in _NEVER:
            _copy(os.path.join(source, name), os.path.join(target, name))


def _folders(path: str) -> None:
    if not os.path.isdir(path):
        _folders(os.path.dirname(path))  # noqa: PTH120
        os.mkdir(path)
        os.chmod(path, 0o755)


def _put(path: str, content: bytes, *, executable: bool = False) -> None:
    with open(path, "xb") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o755 if executable else 0o644)


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
