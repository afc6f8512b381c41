"""Images from registries, layouts and archives into the store, over loopback: what is asked for, what comes, what fails."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.drivers.rootfs.images import RootImages
from orchestrator.drivers.rootfs.store import layer_name
from orchestrator.errors import StepError
from orchestrator.model.desired import ImageRoot
from orchestrator.model.images import ImageWish, Pin, Pull
from orchestrator.ports.images import Progress
from tests.kernel.image_lab import (
    Faulty,
    Image,
    Registry,
    docker_save,
    faulty,
    image,
    index,
    layout,
    registry,
)
from tests.kernel.layer_lab import Shelf, file, folder, packed, sha256
from tests.waiting import until

pytestmark = pytest.mark.root

BASE = [folder("etc"), file("etc/base", b"base")]
APP = [folder("etc"), file("etc/app", b"app")]


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Images(RootImages):
    """With a shelf for its store."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(shelf.store)
        self.shelf = shelf

    def have(self, name: str, pull: Pull = Pull.MISSING) -> Pin:
        wish = ImageWish(name=name, pull=pull)
        return self.fetch(wish, self.pin(wish), lambda _: None)

    def text(self, pin: Pin, path: str) -> str:
        """What a container reads there."""
        with self.shelf.merged(self.contents(ImageRoot(digest=pin.digest))) as top:
            return (top / path).read_text()

    def left(self) -> list[str]:
        """What is half there."""
        partial = self.store.folder(".partial")
        blobs = [each.name for each in partial.rglob("*") if each.is_file()] if partial.exists() else []
        return [*self.shelf.left(), *blobs]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    for name in ("REGISTRY_AUTH_FILE", "SSL_CERT_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Images(Shelf(tmp_path))


@pytest.fixture
def odd() -> Iterator[Faulty]:
    with faulty() as found:
        yield found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("hub") / "registry") as found:
        yield found


# what comes


def test_an_image_of_a_registry_with_all_that_it_says(images: Images, hub: Registry) -> None:
    app = image(BASE, APP, said={"Cmd": ["serve"], "User": "7", "Env": ["A=b"], "StopSignal": "SIGINT"})
    hub.push(app, "all/app:1")
    wish = ImageWish(name=f"docker://{hub.address}/all/app:1")
    pin = images.pin(wish)
    sizes = sum(len(app.blobs[each]) for each in app.layers)
    assert (pin.digest, pin.size) == (app.digest, sizes)
    assert (pin.config.command, pin.config.user, pin.config.stop_signal) == (("serve",), "7", "INT")
    assert images.store.contents() == ()
    told: list[Progress] = []
    images.fetch(wish, pin, told.append)
    assert images.text(pin, "etc/base") + images.text(pin, "etc/app") == "baseapp"
    assert told[-1].stage == "ready" and all(each.done <= (each.total or each.done) for each in told)
    assert images.pin(wish).size == 0 and images.left() == []


def test_what_the_store_has_is_not_fetched_again(images: Images, hub: Registry) -> None:
    first, second = image(BASE, [file("one")]), image(BASE, [file("two")])
    hub.push(first, "share/a:1")
    hub.push(second, "share/b:1")
    images.have(f"docker://{hub.address}/share/a:1")
    before = hub.gets(first.layers[0])
    pin = images.have(f"docker://{hub.address}/share/b:1")
    assert images.text(pin, "two") == "x"
    assert hub.gets(first.layers[0]) == before and len(images.store.contents()) == 3


def test_an_index_comes_down_to_this_hosts(images: Images, hub: Registry) -> None:
    ours, newer, other = image(APP), image(BASE), image([file("other")], arch="s390x")
    arch = json.loads(ours.config)["architecture"]
    several = index(
        (other, {"os": "linux", "architecture": "s390x"}),
        (newer, {"os": "linux", "architecture": arch, "variant": "v9"}),  # of machines that are not built yet
        (ours, {"os": "linux", "architecture": arch}),
    )
    hub.push(several, "multi/app:1")
    assert images.have(f"docker://{hub.address}/multi/app:1").digest == ours.digest
    assert images.have(f"docker://{hub.address}/multi/app@{several.digest}").digest == ours.digest
    hub.push(index((other, {"os": "linux", "architecture": "s390x"})), "multi/other:1")
    with pytest.raises(StepError) as caught:
        images.have(f"docker://{hub.address}/multi/other:1")
    assert "s390x" in str(caught.value.hint)


def test_a_layer_that_is_there_twice(images: Images, hub: Registry) -> None:
    hub.push(image(BASE, APP, BASE), "twice/app:1")
    pin = images.have(f"docker://{hub.address}/twice/app:1")
    names = images.contents(ImageRoot(digest=pin.digest))
    assert len(names) == len(set(names)) == 2, "overlayfs refuses a lower that is there twice"
    assert images.text(pin, "etc/app") == "app"


def test_plain_layers_of_dockers_form(images: Images, hub: Registry, tmp_path: Path) -> None:
    plain = image(BASE, plain=True)
    where = layout(tmp_path / "plain", x=plain)
    target = f"docker://{hub.address}/plain/app:1"
    flags = ("--format", "v2s2", "--dest-tls-verify=false")
    subprocess.run(["skopeo", "copy", "-q", *flags, f"oci:{where}:x", target], check=True)
    assert images.text(images.have(target), "etc/base") == "base"


# policies


def test_a_tag_that_moves(images: Images, hub: Registry) -> None:
    name = f"docker://{hub.address}/moving/app:1"
    old, new = image(BASE), image(APP)
    with pytest.raises(StepError, match="never"):
        images.have(name, Pull.NEVER)
    hub.push(old, "moving/app:1")
    assert images.have(name).digest == old.digest
    hub.push(new, "moving/app:1")
    for pull in (Pull.MISSING, Pull.NEVER):
        assert images.have(name, pull).digest == old.digest
    assert images.have(name, Pull.ALWAYS).digest == new.digest
    assert images.have(name).digest == new.digest
    assert images.have(f"{name}@{old.digest}", Pull.ALWAYS).digest == old.digest


def test_a_registry_that_is_down(images: Images, tmp_path: Path) -> None:
    with registry(tmp_path / "down") as down:
        app = image(APP)
        down.push(app, "app:1")
        name = f"docker://{down.address}/app:1"
        images.have(name)
        down.stop()
        with pytest.raises(
            StepError, match=r"cannot reach 127\.0\.0\.1:\d+: connect: connection refused|refused"
        ):
            images.have(name, Pull.ALWAYS)
        assert images.have(name).digest == app.digest
        # A lock names what is here: nobody need be asked, whatever the policy.
        assert images.have(f"{name}@{app.digest}", Pull.ALWAYS).digest == app.digest
        assert images.have(f"docker://{down.address}/app@{app.digest}", Pull.NEVER).digest == app.digest


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'), "no such image"),
        ((500, b"\x1b[31mboom"), "127.0.0.1"),
        ((200, b"{}"), "127.0.0.1"),
        ((200, b"[" * 100_000), "127.0.0.1"),
        ((200, b'{"schemaVersion": 1}'), "127.0.0.1"),
    ],
)
def test_what_odd_registries_say_becomes_words(
    images: Images, odd: Faulty, answer: tuple[int, bytes], words: str
) -> None:
    odd.answer = answer
    with pytest.raises(StepError, match=words) as caught:
        images.have(f"docker://{odd.address}/app:1")
    assert caught.value.message.isprintable()
    assert images.store.documents("names") == images.store.documents("images") == ()


# credentials and trust


def test_credentials_come_from_the_users_file(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = subprocess.run(["htpasswd", "-Bbn", "me", "hush"], capture_output=True, text=True, check=True)
    auth = tmp_path / "auth.json"
    with registry(tmp_path / "locked", users=users.stdout) as locked:
        locked.push(image(APP), "app:1", "--dest-tls-verify=false", "--dest-creds", "me:hush")
        name = f"docker://{locked.address}/app:1"
        with pytest.raises(StepError, match="credentials") as caught:
            images.have(name)
        assert f"skopeo login {locked.address}" in str(caught.value.hint)
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(auth))
        for password in ("wrong", "hush"):
            token = base64.b64encode(f"me:{password}".encode()).decode()
            auth.write_text(json.dumps({"auths": {locked.address: {"auth": token}}}))
            if password == "wrong":
                with pytest.raises(StepError, match="credentials") as caught:
                    images.have(name)
                assert password not in caught.value.message and token not in caught.value.message
        assert images.text(images.have(name), "etc/app") == "app"


def test_only_a_certificate_that_is_trusted_will_do(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    with registry(tmp_path / "tls", tls=(certificate, key)) as safe:
        safe.push(image(APP), "app:1", "--dest-tls-verify=false")
        name = f"docker://{safe.address}/app:1"
        with pytest.raises(StepError, match="not trusted") as caught:
            images.have(name)
        assert safe.address in str(caught.value.hint)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert images.text(images.have(name), "etc/app") == "app"


# what is damaged


def test_what_has_another_digest_is_never_used(images: Images, odd: Faulty) -> None:
    app, other = image(BASE), image(APP)
    name = odd.add(app)
    odd.blobs[app.digest] = other.manifest
    with pytest.raises(StepError):
        images.have(f"docker://{odd.address}/app@{app.digest}")
    odd.blobs[app.digest] = app.manifest
    odd.blobs[app.layers[0]] = app.blobs[app.layers[0]][:-1] + b"x"
    with pytest.raises(StepError, match=odd.address):
        images.have(name)
    assert images.store.contents() == () and images.left() == []
    odd.blobs |= app.blobs
    assert images.text(images.have(name), "etc/base") == "base"
    assert images.left() == []


def test_a_layer_that_is_not_what_the_config_says(images: Images, odd: Faulty) -> None:
    app = image(BASE)
    forged = app.config.replace(sha256(app.tars[0]).encode(), sha256(b"else").encode())
    manifest = app.manifest.replace(sha256(app.config).encode(), sha256(forged).encode())
    assert len(forged) == len(app.config)
    wrong = Image(
        app.tars, {**app.blobs, sha256(forged): forged, sha256(manifest): manifest}, manifest, forged
    )
    name = odd.add(wrong)
    for count in (1, 2):
        with pytest.raises(StepError, match=sha256(b"else")):
            images.have(name)
        assert odd.count(app.layers[0]) == count, "a blob that cannot be used is fetched again"
    assert images.store.contents() == () and images.shelf.left() == []


def test_a_blob_that_is_cut_short(images: Images, odd: Faulty) -> None:
    app = image(BASE, [file("big", noise(300_000))])
    name = odd.add(app)
    odd.cut = {app.layers[1]}
    with pytest.raises(StepError, match=odd.address):
        images.have(name)
    assert layer_name(sha256(app.tars[1])) not in images.store.contents()
    odd.cut = set()
    assert images.text(images.have(name), "etc/base") == "base"
    assert odd.count(app.layers[0]) == 1, "what came whole is not fetched again"
    assert images.left() == []


def test_a_blob_that_went_bad_on_disk_is_fetched_again(images: Images, odd: Faulty) -> None:
    app = image([file("big", noise(300_000))])
    name = odd.add(app)
    wish = ImageWish(name=name)
    pin = images.pin(wish)
    blobs = images.store.partial(str(pin.digest)) / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    blob = blobs / app.layers[0].removeprefix("sha256:")
    blob.write_bytes(b"\0" * len(app.blobs[app.layers[0]]))
    with pytest.raises(StepError, match=app.layers[0]):
        images.fetch(wish, pin, lambda _: None)
    assert images.store.contents() == () and not blob.exists()
    blob.write_bytes(b"short")
    images.fetch(wish, pin, lambda _: None)
    assert images.have(name).digest == app.digest and images.left() == []
    assert odd.count(app.layers[0]) == 1


PULL = """
import sys
from pathlib import Path
from orchestrator.drivers.rootfs.images import RootImages
from orchestrator.drivers.rootfs.store import ContentStore
from orchestrator.model.images import ImageWish
from orchestrator.ports.layout import Layout
images = RootImages(ContentStore(Layout.at(Path(sys.argv[1]))))
wish = ImageWish(name=sys.argv[2])
images.fetch(wish, images.pin(wish), lambda _: None)
"""


def test_killed_in_the_middle_it_goes_on_where_it_was(images: Images, odd: Faulty, tmp_path: Path) -> None:
    app = image(BASE, [file("big", noise(2_000_000))])
    name = odd.add(app)
    odd.hold = {app.layers[1]}
    child = subprocess.Popen([sys.executable, "-c", PULL, str(tmp_path / "instance"), name])
    try:
        assert odd.held.wait(20)
        until(lambda: layer_name(sha256(app.tars[0])) in images.store.contents())
        pids = children_of(child.pid)
        assert pids, "skopeo is at work"
    finally:
        child.kill()
        child.wait()
    until(lambda: not any(map(lives, pids)))
    odd.released.set()
    assert layer_name(sha256(app.tars[1])) not in images.store.contents()
    pin = images.have(name)
    assert images.text(pin, "etc/base") == "base"
    assert (odd.count(app.layers[0]), odd.count(app.layers[1])) == (1, 2)
    assert images.left() == []


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


def lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


# side by side


def test_three_images_at_once_share_their_layers(images: Images, odd: Faulty) -> None:
    shared = [file("big", noise(1_000_000))]
    several = [image(shared, BASE, [file(f"own{n}")]) for n in range(3)]
    names = [odd.add(each, f"app{n}:1") for n, each in enumerate(several)]
    with ThreadPoolExecutor(3) as pool:
        pins = list(pool.map(images.have, names))
    assert [images.text(pin, f"own{n}") for n, pin in enumerate(pins)] == ["x"] * 3
    assert len(images.store.contents()) == 5 and images.left() == []
    assert {odd.count(layer) for each in several for layer in each.layers} == {1}


def test_layers_shared_crosswise_wait_for_nobody_for_ever(images: Images, odd: Faulty) -> None:
    layers = [[file(f"f{n}", noise(200_000, n))] for n in range(6)]
    orders = [random.Random(seed).sample(layers, 6) for seed in range(6)]
    names = [odd.add(image(*order), f"app{n}:1") for n, order in enumerate(orders)]
    with ThreadPoolExecutor(6) as pool:
        assert len({pin.digest for pin in pool.map(images.have, names)}) == 6
    assert len(images.store.contents()) == 6 and images.left() == []
    locks = {each.name for each in images.store.folder(".locks").iterdir()}
    assert not any(each.startswith(("blob-", "pull-")) for each in locks)


def test_one_image_wanted_eight_times_at_once_is_fetched_once(images: Images, odd: Faulty) -> None:
    app = image([file("big", noise(1_000_000))])
    names = [odd.add(app, f"app:{n}") for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert {pin.digest for pin in pool.map(images.have, names)} == {app.digest}
    assert odd.count(app.layers[0]) == 1


# folders and archives


def test_a_layout_as_a_folder_and_as_an_archive(images: Images, tmp_path: Path) -> None:
    one, two = image(BASE), image(APP)
    folder = layout(tmp_path / "layout", one=one, two=two)
    with tarfile.open(tmp_path / "layout.tar", "w") as tar:
        for each in sorted(folder.rglob("*"), reverse=True):
            tar.add(each, each.relative_to(folder), recursive=False)
    for place in (f"oci:{folder}", f"oci-archive:{tmp_path}/layout.tar"):
        assert images.have(f"{place}:two").digest == two.digest
        with pytest.raises(StepError) as caught:
            images.have(place)
        assert "one, two" in str(caught.value.hint)
        with pytest.raises(StepError, match="three"):
            images.have(f"{place}:three")
    assert images.text(images.have(f"oci:{folder}:one"), "etc/base") == "base"
    assert images.left() == []


@pytest.mark.parametrize("gz", [False, True])
def test_what_docker_save_writes(images: Images, tmp_path: Path, gz: bool) -> None:
    app = image(BASE, APP, BASE, said={"Cmd": ["serve"]})
    path = docker_save(tmp_path / "app.tar", app, "shop/app:1", gz=gz)
    pin = images.have(f"docker-archive:{path}")
    assert (images.text(pin, "etc/app"), pin.config.command) == ("app", ("serve",))
    before = pin.digest
    assert images.pin(ImageWish(name=f"docker-archive:{path}")).digest == before
    docker_save(path, image(APP), "shop/app:1", gz=gz)
    assert images.have(f"docker-archive:{path}").digest != before


def test_an_archive_of_many_layers_with_its_index_at_the_end(images: Images, tmp_path: Path) -> None:
    app = image(*([file(f"f{n}", noise(7_000_000, n))] for n in range(10)), plain=True)
    folder = layout(tmp_path / "many", x=app)
    with tarfile.open(tmp_path / "many.tar", "w") as tar:
        for each in (folder / "blobs", folder / "index.json"):
            tar.add(each, each.relative_to(folder))
    assert images.have(f"oci-archive:{tmp_path}/many.tar").digest == app.digest


def _odd_archive(tmp_path: Path, saved: object, config: object) -> Path:
    path = tmp_path / "odd.tar"
    path.write_bytes(
        packed(file("manifest.json", json.dumps(saved).encode()), file("c.json", json.dumps(config).encode()))
    )
    return path


@pytest.mark.parametrize(
    ("saved", "config"),
    [
        (5, {}),
        ([5], {}),
        ([{"Config": "c.json", "Layers": [], "RepoTags": 5}], {}),
        ([{"Config": "c.json", "Layers": []}], {"rootfs": []}),
        ([{"Config": "c.json", "Layers": []}], {"rootfs": {"diff_ids": None}}),
        ([{"Config": "c.json", "Layers": ["/etc/passwd"]}], {"rootfs": {"diff_ids": [5]}}),
        ([{"Config": "/etc/passwd", "Layers": []}], {}),
        ([{"Config": "c.json", "Layers": ["../../etc/passwd"]}], {"rootfs": {"diff_ids": [sha256(b"")]}}),
        ([{"Config": "c.json", "Layers": ["c.json"]}], {"rootfs": {"diff_ids": [sha256(b"")]}}),
    ],
)
def test_archives_that_cannot_be_are_refused(
    images: Images, tmp_path: Path, saved: object, config: object
) -> None:
    path = _odd_archive(tmp_path, saved, config)
    for name in (f"docker-archive:{path}", f"docker-archive:{path}:a:1", f"oci-archive:{path}"):
        with pytest.raises(StepError):
            images.have(name)
    assert images.store.contents() == ()


def test_paths_that_are_no_image(images: Images, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "text").write_text("x" * 2000)
    (tmp_path / "empty").mkdir()
    for name in ("fifo", "text", "empty", "missing"):
        for transport in ("oci", "oci-archive", "docker-archive"):
            with pytest.raises(StepError):
                images.have(f"{transport}:{tmp_path}/{name}")


def test_blobs_of_a_layout_do_not_lead_out_of_it(images: Images, tmp_path: Path) -> None:
    app = image(BASE)
    folder = layout(tmp_path / "layout", x=app)
    blob = folder / "blobs" / "sha256" / app.layers[0].removeprefix("sha256:")
    blob.rename(tmp_path / "outside")
    blob.symlink_to("../../../outside")
    with pytest.raises(StepError):
        images.have(f"oci:{folder}")
    blob.unlink()
    os.mkfifo(blob)
    with pytest.raises(StepError):
        images.have(f"oci:{folder}")
    assert images.store.contents() == ()


def test_a_full_disk_leaves_nothing_and_heals(images: Images, odd: Faulty) -> None:
    small = images.store.folder("x").parent
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], check=True)
    try:
        app = image(BASE, [file("big", noise(2_500_000))])
        name = odd.add(app)
        with pytest.raises(StepError, match="no space left"):
            images.have(name)
        assert layer_name(sha256(app.tars[1])) not in images.store.contents()
        assert images.left() == []
        subprocess.run(["mount", "-o", "remount,size=30m", small], check=True)
        assert images.text(images.have(name), "etc/base") == "base"
    finally:
        subprocess.run(["umount", small], check=True)
