"""Images made in Python for tests, and a registry on loopback to serve them.

In: layers as mappings of paths to what lies there. Out: OCI layouts, archives, `docker save` archives; a `Registry`. The
same input gives the same bytes. Everything ends with its block.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.waiting import until

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_KIND = "application/vnd.oci.image"


@dataclass(frozen=True, kw_only=True)
class File:
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, kw_only=True)
class Folder:
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class Link:
    to: str


Layer = Mapping[str, File | Folder | Link | bytes]


def tar(layer: Layer) -> bytes:
    """The layer as an archive; folders that a path implies are entries before it."""
    out = io.BytesIO()
    seen: set[str] = set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, what in layer.items():
            parts = path.split("/")
            for number in range(1, len(parts)):
                above = "/".join(parts[:number])
                if above not in seen and above not in layer:
                    _add(archive, above, Folder())
                seen.add(above)
            _add(archive, path, File(data=what) if isinstance(what, bytes) else what)
            seen.add(path)
    return out.getvalue()


def _add(archive: tarfile.TarFile, path: str, what: File | Folder | Link) -> None:
    info = tarfile.TarInfo(path)
    if isinstance(what, Link):
        info.type, info.linkname = tarfile.SYMTYPE, what.to
    else:
        info.mode, info.uid, info.gid = what.mode, what.uid, what.gid
        info.type = tarfile.DIRTYPE if isinstance(what, Folder) else tarfile.REGTYPE
    data = what.data if isinstance(what, File) else b""
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def shell() -> Layer:
    """A root in which /bin/sh and its tools really run: Debian's static busybox."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox-static is not installed"
    data = Path(busybox).read_bytes()
    names = (
        "sh",
        "cat",
        "sleep",
        "echo",
        "id",
        "ls",
        "stat",
        "env",
        "chown",
        "mkdir",
        "mv",
        "rm",
        "hostname",
        "httpd",
    )
    layer: dict[str, File | Folder | Link | bytes] = {
        "bin": Folder(),
        "bin/busybox": File(data=data, mode=0o755),
        **{f"bin/{name}": Link("busybox") for name in names},
        "etc/passwd": b"root:x:0:0::/root:/bin/sh\napp:x:999:998::/:/bin/sh\n",
        "etc/group": b"root:x:0:\napp:x:998:\n",
        **{name: Folder() for name in ("proc", "sys", "dev", "run", "root")},
        "tmp": Folder(mode=0o1777),
    }
    return layer


@dataclass
class Image:
    """`layers` bottommost first; `config` as image-spec has it under "config". `plain`: layers are not compressed."""

    layers: Sequence[Layer]
    config: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = ARCHITECTURE
    plain: bool = False

    def parts(self) -> tuple[list[tuple[dict[str, Any], bytes]], bytes, list[str]]:
        """(descriptor, blob) of each layer, the raw configuration, the diff ids."""
        found, diff_ids = [], []
        for layer in self.layers:
            raw = tar(layer)
            diff_ids.append(_digest(raw))
            blob = raw if self.plain else gzip.compress(raw, 1, mtime=0)
            kind = f"{_KIND}.layer.v1.tar{'' if self.plain else '+gzip'}"
            found.append(({"mediaType": kind, "digest": _digest(blob), "size": len(blob)}, blob))
        about = {
            "architecture": self.architecture,
            "os": "linux",
            "config": dict(self.config),
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        return found, json.dumps(about).encode(), diff_ids


def layout(folder: Path, images: Mapping[str, Image | Sequence[Image]]) -> Path:
    """An OCI layout; several images of one tag are an index by platform."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        (blobs / _digest(data).removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": kind, "digest": _digest(data), "size": len(data)}

    def manifest(image: Image) -> dict[str, Any]:
        layers, config, _ = image.parts()
        for descriptor, blob in layers:
            put(blob, descriptor["mediaType"])
        data = {
            "schemaVersion": 2,
            "mediaType": f"{_KIND}.manifest.v1+json",
            "config": put(config, f"{_KIND}.config.v1+json"),
            "layers": [descriptor for descriptor, _ in layers],
        }
        return put(json.dumps(data).encode(), f"{_KIND}.manifest.v1+json")

    entries = []
    for tag, image in images.items():
        if isinstance(image, Image):
            entry = manifest(image)
        else:
            many = [
                {**manifest(each), "platform": {"os": "linux", "architecture": each.architecture}}
                for each in image
            ]
            index = {"schemaVersion": 2, "mediaType": f"{_KIND}.index.v1+json", "manifests": many}
            entry = put(json.dumps(index).encode(), f"{_KIND}.index.v1+json")
        entries.append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return folder


def archived(folder: Path, path: Path) -> Path:
    """A layout's folder as one file."""
    with tarfile.open(path, "w") as archive:
        for each in sorted(folder.rglob("*")):
            archive.add(each, each.relative_to(folder), recursive=False)
    return path


def saved(image: Image, path: Path, name: str) -> Path:
    """As `docker save` wrote it before it wrote layouts."""
    _, config, diff_ids = image.parts()
    layers = [f"{each.removeprefix('sha256:')}/layer.tar" for each in diff_ids]
    files: dict[str, File | Folder | Link | bytes] = dict(zip(layers, map(tar, image.layers), strict=True))
    files[f"{_digest(config).removeprefix('sha256:')}.json"] = config
    entry = {
        "Config": f"{_digest(config).removeprefix('sha256:')}.json",
        "RepoTags": [name],
        "Layers": layers,
    }
    files["manifest.json"] = json.dumps([entry]).encode()
    path.write_bytes(tar(files))
    return path


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True)
class Registry:
    """Debian's docker-registry. `host`: HOST:PORT; `log`: its requests; `options`: what skopeo needs to push."""

    host: str
    folder: Path
    log: Path
    options: tuple[str, ...]
    prefix: tuple[str, ...]

    def push(self, name: str, image: Image | Sequence[Image]) -> str:
        """The whole name of the image as it is served."""
        place = self.folder / f"layout-{len(list(self.folder.glob('layout-*')))}"
        layout(place, {"x": image})
        everything = () if isinstance(image, Image) else ("--all",)
        command = ["skopeo", "copy", "--preserve-digests", *everything, *self.options]
        subprocess.run(
            [*self.prefix, *command, f"oci:{place}:x", f"docker://{self.host}/{name}"],
            check=True,
            capture_output=True,
        )
        return f"{self.host}/{name}"

    def blobs_served(self) -> int:
        """How many times a blob was sent whole."""
        lines = self.log.read_text().splitlines()
        return sum('"GET /v2/' in line and "/blobs/" in line and " 200 " in line for line in lines)


@contextmanager
def registry(
    folder: Path,
    *,
    user: tuple[str, str] | None = None,
    tls: bool = False,
    netns: str | None = None,
) -> Iterator[Registry]:
    """A registry on loopback until the block ends, of the host or of a named network namespace. `user`: name and password;
    `tls`: with a certificate of its own CA, which is `folder`/ca.crt."""
    prefix = ("nsenter", f"--net=/run/netns/{netns}", "--") if netns else ()
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    settings: dict[str, Any] = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": False}, "level": "info"},
        "storage": {"filesystem": {"rootdirectory": f"{folder}/data"}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    options: tuple[str, ...] = ("--dest-tls-verify=false",)
    if tls:
        _certificates(folder)
        settings["http"]["tls"] = {"certificate": f"{folder}/server.crt", "key": f"{folder}/server.key"}
    if user is not None:
        name, password = user
        line = subprocess.run(
            ["htpasswd", "-Bbn", name, password], capture_output=True, text=True, check=True
        ).stdout
        (folder / "htpasswd").write_text(line)
        settings["auth"] = {"htpasswd": {"realm": "test", "path": f"{folder}/htpasswd"}}
        options = (*options, f"--dest-creds={name}:{password}")
    (folder / "config.yml").write_text(json.dumps(settings))
    log = folder / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*prefix, "docker-registry", "serve", f"{folder}/config.yml"],
            stdout=out,
            stderr=out,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        until(lambda: "listening on" in log.read_text() or server.poll() is not None)
        assert server.poll() is None, log.read_text()[-2000:]
        yield Registry(f"127.0.0.1:{port}", folder, log, options, prefix)
    finally:
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _certificates(folder: Path) -> None:
    """A CA, and a certificate of it for 127.0.0.1."""
    commands = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt",
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=server -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt",
    )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for each in commands:
        subprocess.run(["openssl", *each.split()], cwd=folder, check=True, capture_output=True)
