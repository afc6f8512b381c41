"""The files that a group's containers see: hosts, hostname, resolv.conf.

In: names, addresses, the host's resolver settings. Out: text, written in place on the same inode, because a bind mount
does not follow a rename.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

NAMES = ("hosts", "hostname", "resolv.conf")
RESOLV = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")


class Everybody:
    """The members of some networks, as the hosts files of all who are on them name them: made once for thousands."""

    def __init__(self, networks: Iterable[Mapping[str, str]]) -> None:
        self._members = dict.fromkeys(each for members in networks for each in members.items())
        self._lines, self._aliases = self._named(())

    def hosts(self, hostname: str, own: str) -> str:
        """/etc/hosts: `own` is the group's first address (127.0.0.1 without networks); then every member of each network.

        Names of other stacks (`web.infra`) also go by the bare name where no own one has it: the first to come gets it.
        """
        first = f"{own} {hostname}\n"
        lines = self._named((hostname,))[0] if hostname in self._aliases else self._lines
        others = f"\n{lines}".replace(f"\n{first}", "\n", 1)
        return f"127.0.0.1 localhost\n{first}{others[1:]}"

    def _named(self, taken: Iterable[str]) -> tuple[str, frozenset[str]]:
        """A line for each, and the bare names of other stacks' in them, none of which is `taken`."""
        bare = dict.fromkeys(("localhost", *taken), "")
        bare |= {name: "" for name, _ in self._members if "." not in name}
        lines = []
        for name, address in self._members:
            short, _, stack = name.partition(".")
            alias = f" {short}" if stack and bare.setdefault(short, stack) == stack else ""
            lines.append(f"{address} {name}{alias}\n")
        return "".join(lines), frozenset(name for name, stack in bare.items() if stack)


def resolv_conf(dns: Sequence[str], upstream: Sequence[str], gateway: str | None) -> str:
    """`dns` as the user wrote it, else the host's `upstream`, else the gateway, which forwards to the host's resolver."""
    servers = list(dns or upstream or ([gateway] if gateway else []))
    return (
        "".join(f"nameserver {each}\n" for each in servers)
        or "# no name server: none is reachable from here\n"
    )


def name_servers(paths: Sequence[str] = RESOLV) -> tuple[tuple[str, ...], str | None]:
    """(the host's IPv4 name servers that others can reach, its loopback one to be forwarded to if there are none)."""
    local: str | None = None
    for path in paths:
        try:
            lines = Path(path).read_text(errors="replace").splitlines()
        except OSError:
            continue
        found = [each for line in lines if (each := _server(line)) is not None]
        others = tuple(str(each) for each in found if not each.is_loopback)
        if others:
            return others, None
        local = local or next((str(each) for each in found), None)
    return (), local


def write(path: Path, text: str) -> None:
    """Write in place, never empty in between, mode 0644 whatever the umask is (every user of the container reads it);
    nothing where the text is there already."""
    data = text.encode()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if os.fstat(fd).st_mode & 0o777 != 0o644:
            os.fchmod(fd, 0o644)
        if os.pread(fd, len(data) + 1, 0) != data:
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def replace(path: Path, text: str) -> None:
    """Write beside and rename. On a full disk what is no longer than before is written over it: deleting must go on.

    Blanks to the old length first, so that a reader of JSON finds it whole at any time.
    """
    data, temporary = text.encode(), path.with_suffix(".tmp")
    try:
        temporary.write_bytes(data)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        old = path.stat().st_size if path.exists() else 0
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or len(data) > old:
            raise
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, data.ljust(old), 0)
            os.ftruncate(fd, len(data))
        finally:
            os.close(fd)
    else:
        temporary.replace(path)


def _server(line: str) -> IPv4Address | None:
    words = line.split()
    if len(words) < 2 or words[0] != "nameserver":
        return None
    try:
        return IPv4Address(words[1])
    except AddressValueError:
        return None
