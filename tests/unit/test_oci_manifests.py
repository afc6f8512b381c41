"""What strangers write into manifests and configurations: taken, dropped, or refused, and nothing else."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.drivers.rootfs.oci.manifests import (
    Choice,
    ImageManifest,
    architecture,
    digest_of,
    read_config,
    read_manifest,
    verified,
)
from orchestrator.drivers.rootfs.oci.skopeo import Reference
from orchestrator.errors import StepError
from orchestrator.model.desired import CommandProbe, Health
from orchestrator.model.images import ImageConfig

A, B = ("sha256:" + digit * 64 for digit in "ab")
OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"


def raw(data: Any) -> bytes:
    return json.dumps(data).encode()


def image(**more: Any) -> dict[str, Any]:
    layer = {"mediaType": "x", "digest": B, "size": 7}
    return {
        "schemaVersion": 2,
        "mediaType": OCI,
        "config": {"digest": A, "size": 2},
        "layers": [layer],
        **more,
    }


def config(said: Any, **more: Any) -> ImageConfig:
    data = {"architecture": architecture(), "rootfs": {"diff_ids": [A]}, "config": said, **more}
    return read_config(raw(data), "x", 1)[0]


def test_manifests_of_both_kinds() -> None:
    for kind, oci in ((OCI, True), (DOCKER, False), (None, True)):
        found = read_manifest(raw(image(mediaType=kind)), "x")
        assert isinstance(found, ImageManifest)
        assert (found.config.digest, [each.digest for each in found.layers], found.oci) == (A, [B], oci)


def test_an_index_gives_the_one_for_this_host() -> None:
    entries = [
        {"digest": B, "size": 1, "platform": {"os": "windows", "architecture": architecture()}},
        {"digest": B, "size": 1, "platform": {"os": "linux", "architecture": "s390x"}},
        {
            "digest": B,
            "size": 1,
            "platform": {"os": "linux", "architecture": architecture(), "variant": "v99"},
        },
        {"digest": A, "size": 1, "platform": {"os": "linux", "architecture": architecture()}},
        {"digest": B, "size": 1, "platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    found = read_manifest(raw({"schemaVersion": 2, "manifests": entries}), "x")
    assert isinstance(found, Choice) and found.blob.digest == A
    with pytest.raises(StepError) as caught:
        read_manifest(raw({"manifests": entries[:2]}), "x")
    assert caught.value.hint is not None and "linux/s390x" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (json.dumps(image()).encode("utf-16"), "no JSON"),
        (raw([]), "no JSON"),
        (raw({}), "no layers"),
        (raw({"schemaVersion": 1}), "schema 1"),
        (raw(image(layers=[{"digest": "md5:x", "size": 1}])), "without a SHA-256"),
        (raw(image(layers=[{"digest": A, "size": -1}])), "impossible size"),
        (raw(image(layers=[{"digest": A, "size": True}])), "impossible size"),
        (raw(image(layers=[{"digest": A, "size": 1}] * 128)), "128 layers"),
        (raw(image(config={"digest": f"{A}/../../etc", "size": 1})), "without a SHA-256"),
    ],
)
def test_manifests_that_cannot_be(data: bytes, word: str) -> None:
    with pytest.raises(StepError, match=word):
        read_manifest(data, "x")


def test_how_an_image_is_run() -> None:
    found = config(
        {
            "Entrypoint": ["/entry"],
            "Cmd": ["a", "b"],
            "Env": ["PATH=/bin", "EMPTY=", "broken", "B A D=1"],
            "User": "app:999",
            "WorkingDir": "/srv/",
            "StopSignal": "SIGINT",
            "Volumes": {"/data": {}, "../up": {}, "/a/../b": {}},
            "ExposedPorts": {"80/tcp": {}, "x": {}},
            "Labels": {"a": "b", "c": 1},
            "Healthcheck": {"Test": ["CMD-SHELL", "ready"], "Interval": 2_000_000_000, "Retries": 5},
        }
    )
    assert found == ImageConfig(
        entrypoint=("/entry",),
        command=("a", "b"),
        env={"PATH": "/bin", "EMPTY": ""},
        user="app:999",
        workdir="/srv",
        stop_signal="INT",
        volumes=("/data",),
        ports=("80/tcp",),
        labels={"a": "b"},
        health=Health(
            probe=CommandProbe(command=("/bin/sh", "-c", "ready")), interval=2.0, timeout=30.0, retries=5
        ),
    )


@pytest.mark.parametrize("test", [["NONE"], [], ["CMD"], ["CMD-SHELL"], "ready", None])
def test_no_health_check(test: Any) -> None:
    assert config({"Healthcheck": {"Test": test}}).health is None


@pytest.mark.parametrize(
    ("signal", "name"), [("15", "TERM"), ("SIGQUIT", "QUIT"), ("RTMIN+3", "RTMIN+3"), ("x", None)]
)
def test_stop_signals(signal: str, name: str | None) -> None:
    assert config({"StopSignal": signal}).stop_signal == name


@pytest.mark.parametrize("user", ["4294967296", "1000:70000", "99999", "9" * 5000])
def test_ids_that_overflow_are_refused(user: str) -> None:
    with pytest.raises(StepError, match="user"):
        config({"User": user})


def test_texts_that_no_program_can_be_given_are_dropped() -> None:
    found = config({"Cmd": ["\ud800"], "Env": ["A=\0"], "Labels": {"a": "\udfff", "b": "c"}})
    assert (found.command, found.env, found.labels) == ((), {}, {"b": "c"})


def test_what_is_for_another_machine_is_refused() -> None:
    with pytest.raises(StepError, match="s390x"):
        config({}, architecture="s390x")


def test_a_digest_is_checked() -> None:
    assert verified(b"x", digest_of(b"x"), "it") == b"x"
    with pytest.raises(StepError, match="has the digest"):
        verified(b"y", digest_of(b"x"), "it")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
KEYS = ("Entrypoint", "Cmd", "Env", "User", "WorkingDir", "StopSignal", "Healthcheck", "Volumes", "Labels")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_configuration_is_read_or_refused(said: dict[str, Any]) -> None:
    with contextlib.suppress(StepError):
        config(said)


@settings(deadline=None)
@given(JSON | st.binary(max_size=40))
def test_any_manifest_is_read_or_refused(data: Any) -> None:
    text = data if isinstance(data, bytes) else raw(data)
    for read in (lambda: read_manifest(text, "x"), lambda: read_config(text, "x", 1)):
        with contextlib.suppress(StepError):
            read()


@pytest.mark.parametrize(
    ("name", "text", "loopback"),
    [
        ("docker://localhost:5000/a/b:1", "docker://localhost:5000/a/b:1", True),
        ("docker://127.0.0.9/a:1", "docker://127.0.0.9/a:1", True),
        ("docker://[::1]:5/a:1", "docker://[::1]:5/a:1", True),
        (f"docker://quay.io/a:1@{A}", f"docker://quay.io/a@{A}", False),
        ("docker://localhost.example/a:1", "docker://localhost.example/a:1", False),
    ],
)
def test_references(name: str, text: str, loopback: bool) -> None:
    found = Reference.of(name)
    assert (found.text, found.loopback) == (text, loopback)
