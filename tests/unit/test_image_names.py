"""Names of images as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.manifest.image_names import canonical, path_of

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("written", "whole"),
    [
        ("nginx", "docker://docker.io/library/nginx:latest"),
        ("nginx:1.25", "docker://docker.io/library/nginx:1.25"),
        ("bitnami/redis", "docker://docker.io/bitnami/redis:latest"),
        ("docker.io/nginx", "docker://docker.io/library/nginx:latest"),
        ("localhost/app", "docker://localhost/app:latest"),
        ("localhost:5000/app", "docker://localhost:5000/app:latest"),
        ("[::1]:5000/app:2", "docker://[::1]:5000/app:2"),
        ("registry.local:5000/shop/app:1.4", "docker://registry.local:5000/shop/app:1.4"),
        (f"registry.local/app@{DIGEST}", f"docker://registry.local/app@{DIGEST}"),
        (f"registry.local/app:1@{DIGEST}", f"docker://registry.local/app:1@{DIGEST}"),
        ("docker://quay.io/a/b_c__d-e.f:x", "docker://quay.io/a/b_c__d-e.f:x"),
        ("oci:layout", "oci:/s/layout"),
        ("oci:../layout:v1", "oci:/layout:v1"),
        ("oci:/a/b:c/d", "oci:/a/b:c/d"),
        ("oci-archive:./a.tar", "oci-archive:/s/a.tar"),
        ("docker-archive:/x/a.tar", "docker-archive:/x/a.tar"),
        ("docker-archive:a.tar:app:1", "docker-archive:/s/a.tar:app:1"),
        ("docker-archive:a.tar:shop/app:1", "docker-archive:/s/a.tar:shop/app:1"),
    ],
)
def test_what_is_left_out_is_filled_in(written: str, whole: str) -> None:
    assert canonical(written, "/s") == whole
    assert canonical(whole, "/elsewhere") == whole


def test_paths_of_what_lies_on_this_host() -> None:
    names = (
        "oci:/a/b",
        "oci:/a/b:v1",
        "oci-archive:/a.tar:x",
        "docker-archive:/a.tar:s/app:1",
        "oci:/a/b:c/d",
    )
    assert [path_of(each) for each in names] == ["/a/b", "/a/b", "/a.tar", "/a.tar", "/a/b:c/d"]
    assert path_of("docker://docker.io/library/nginx:latest") is None


@pytest.mark.parametrize(
    ("written", "word"),
    [
        ("", "repository"),
        ("Nginx", "write library/nginx"),
        ("nginx:", "nothing after : is no tag"),
        ("nginx: 1", "blanks"),
        ("https://registry.local/app", "without https://"),
        ("app@sha256:abc", "no digest"),
        ("app@", "no digest"),
        ("-x", "repository"),
        ("--privileged/x", "repository"),
        ("a..b/c", "registry"),
        ("ho_st.x:1/app", "registry"),
        ("oci:", "needs a path"),
        ("oci:x:", "tag"),
        ("x/../y", "repository"),
        ("a\0b", "control"),
    ],
)
def test_what_is_no_name_is_refused_with_words(written: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        canonical(written, "/s")


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_a_value_error(text: str) -> None:
    try:
        found = canonical(text, "/s")
    except ValueError:
        return
    assert canonical(found, "/t") == found
