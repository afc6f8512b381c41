"""Layers for tests: made by tarfile, unpacked into a store of the test's own, looked at through the kernel's overlayfs."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.drivers.rootfs.oci.layers import unpack_layer
from orchestrator.drivers.rootfs.store import ContentStore
from orchestrator.ports.layout import Layout

Entry = tuple[str, dict[str, object], bytes]
TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def file(name: str, content: bytes = b"x", **more: object) -> Entry:
    return name, more, content


def folder(name: str, **more: object) -> Entry:
    return name, {"type": tarfile.DIRTYPE, "mode": 0o755, **more}, b""


def symlink(name: str, target: str, **more: object) -> Entry:
    return name, {"type": tarfile.SYMTYPE, "linkname": target, **more}, b""


def hard_link(name: str, target: str) -> Entry:
    return name, {"type": tarfile.LNKTYPE, "linkname": target}, b""


def whiteout(path: str) -> Entry:
    parent, _, name = path.rpartition("/")
    return f"{parent}/.wh.{name}" if parent else f".wh.{name}", {}, b""


def opaque(path: str) -> Entry:
    return f"{path}/.wh..wh..opq" if path else ".wh..wh..opq", {}, b""


def packed(*entries: Entry, format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, attributes, content in entries:
            info = tarfile.TarInfo(name)
            info.mtime = 1_000_000_000
            for key, value in attributes.items():
                setattr(info, key, value)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def sha256(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


class Shelf:
    """A store and the blobs beside it."""

    def __init__(self, base: Path, layout: Layout | None = None) -> None:
        self.base = base
        self.store = ContentStore(layout or Layout.at(base / "instance"))

    def blob(self, raw: bytes) -> Path:
        path = self.base / hashlib.sha256(raw).hexdigest()[:24]
        path.write_bytes(raw)
        return path

    def unpack(
        self,
        tar: bytes,
        parents: tuple[str, ...] = (),
        *,
        blob: bytes | None = None,
        diff_id: str | None = None,
    ) -> str:
        raw = gzip.compress(tar, 1, mtime=0) if blob is None else blob
        return unpack_layer(
            self.store, self.blob(raw), TAR_GZIP, sha256(raw), diff_id or sha256(tar), parents
        )

    def stack(self, *layers: list[Entry]) -> tuple[str, ...]:
        """The contents of layers that are given bottom first; topmost first."""
        names: tuple[str, ...] = ()
        for each in layers:
            names = (self.unpack(packed(*each), names), *names)
        return names

    def left(self) -> list[str]:
        """What is in the store but its contents and what is known of them."""
        root = self.store.folder("x").parent
        known = {f"{name}{end}" for name in self.store.contents() for end in (".json", ".list.gz")}
        about = root / ".about"
        odd = [each.name for each in about.iterdir() if each.name not in known] if about.exists() else []
        return [*odd, *self.store.half_made()]

    @contextlib.contextmanager
    def merged(self, names: tuple[str, ...]) -> Iterator[Path]:
        """What a container sees of them."""
        point, empty = self.base / "merged", self.base / "empty"
        point.mkdir(exist_ok=True)
        empty.mkdir(exist_ok=True)
        lowers = ":".join(os.fspath(self.store.folder(each)) for each in dict.fromkeys(names))
        subprocess.run(
            ["mount", "-t", "overlay", "-o", f"ro,lowerdir={lowers}:{empty}", "overlay", point], check=True
        )
        try:
            yield point
        finally:
            subprocess.run(["umount", point], check=True)

    def seen(self, *layers: list[Entry]) -> dict[str, str]:
        with self.merged(self.stack(*layers)) as top:
            return snapshot(top)


def snapshot(top: Path) -> dict[str, str]:
    """Path -> what is there: `dir`, `file CONTENT`, `-> LINK`."""
    found = {}
    for path in sorted(top.rglob("*")):
        about = path.lstat()
        name = os.fspath(path.relative_to(top))
        match stat.S_IFMT(about.st_mode):
            case stat.S_IFDIR:
                found[name] = "dir"
            case stat.S_IFREG:
                found[name] = f"file {path.read_bytes().decode()}"
            case stat.S_IFLNK:
                found[name] = f"-> {os.readlink(path)}"
            case other:
                found[name] = f"odd {other:o}"
    return found


def umoci_layout(folder: Path, tars: list[bytes]) -> Path:
    """An OCI layout with one image, `t`, of layers that are not compressed."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(raw: bytes, kind: str) -> dict[str, object]:
        digest = sha256(raw)
        (blobs / digest.removeprefix("sha256:")).write_bytes(raw)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": len(raw)}

    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [sha256(each) for each in tars]},
    }
    manifest = {
        "schemaVersion": 2,
        "config": put(json.dumps(config).encode(), "config.v1+json"),
        "layers": [put(each, "layer.v1.tar") for each in tars],
    }
    entry = put(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "t"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder
