"""Where an instance of ours keeps its things, and the marks that everything it makes in the kernel bears.

In: the `--root` of the user. Out: paths and names; makes nothing. Two roots never share a path, cgroup, link or table.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from orchestrator.model.ids import Incarnation, Ref

DEFAULT_STATE = Path("/var/lib/orchestrator")
DEFAULT_RUN = Path("/run/orchestrator")


@dataclass(frozen=True, slots=True)
class Layout:
    """`state` outlives a reboot, `run` does not (a tmpfs by default); `instance` is the mark: `main` or 8 hex digits."""

    state: Path
    run: Path
    instance: str

    @classmethod
    def at(cls, root: str | Path | None = None) -> Layout:
        """The layout of `--root`: None is the machine's main instance; otherwise all lives under that folder."""
        if root is None:
            return cls(DEFAULT_STATE, DEFAULT_RUN, "main")
        base = Path(root).resolve()
        return cls(base / "state", base / "run", hashlib.sha256(str(base).encode()).hexdigest()[:8])

    @property
    def root(self) -> str | None:
        """What `at` takes to come here again."""
        return None if self.instance == "main" else str(self.run.parent)

    # kernel names
    @property
    def cgroup(self) -> str:
        """The name of our folder at the root of each cgroup hierarchy."""
        return f"orchestrator-{self.instance}"

    @property
    def table(self) -> str:
        """The nftables table (family ip)."""
        return f"orchestrator_{self.instance}"

    @staticmethod
    def link(id: str) -> str:
        """The host's end of a group's veth pair (at most 15 characters)."""
        return f"orc{id}"

    # records and files by incarnation
    def record(self, target: Incarnation) -> Path:
        """The folder that holds `record.json` of any kind of incarnation; found again by listing."""
        return self.state / "stacks" / target.stack / target.ref.kind / target.id

    def group_run(self, id: str) -> Path:
        """A group's pinned namespaces (`net`, `ipc`, `uts`) and its `hosts`, `resolv.conf`, `hostname` files."""
        return self.run / "groups" / id

    def container_run(self, id: str) -> Path:
        """A container's FIFOs, process record and health."""
        return self.run / "containers" / id

    def logs(self, stack: str, ref: Ref) -> Path:
        """A container's log ring; by ref, so that it is kept when the container is replaced."""
        return self.state / "logs" / stack / ref.name.replace("/", ".")

    def volume(self, stack: str, name: str) -> Path:
        return self.state / "volumes" / stack / name

    @property
    def files(self) -> Path:
        """Where the instance's tmpfs is mounted: a folder of secrets' and configs' files for each container's id."""
        return self.run / "files"

    @property
    def secret_key(self) -> Path:
        """The key of secrets' digests."""
        return self.state / "secret.key"

    def blobs(self, stack: str) -> Path:
        """A stack's configs by their SHA-256."""
        return self.state / "blobs" / stack

    @property
    def rootfs(self) -> Path:
        return self.state / "rootfs"

    @property
    def networks(self) -> Path:
        """Subnets and addresses that were given out; outlives a reboot, so that addresses stay."""
        return self.state / "networks"

    @property
    def database(self) -> Path:
        return self.state / "orchestrator.db"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def agent_socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def agent_lock(self) -> Path:
        """Held by the agent for as long as it lives; its pid is in it."""
        return self.run / "agent.lock"

    @property
    def agent_wish(self) -> Path:
        """How the keeper starts the agent: {"command", "env"}; absent: it must not."""
        return self.run / "agent.json"

    def lock(self, stack: str) -> Path:
        return self.run / "locks" / stack
