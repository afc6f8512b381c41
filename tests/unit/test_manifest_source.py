"""Strict YAML: hostile input is refused quickly, and every value has its place."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.diagnostics import render
from orchestrator.manifest import load
from orchestrator.manifest.interpolate import Variables, interpolate
from orchestrator.manifest.source import parse
from orchestrator.resolve import resolve_all


def codes(text: str) -> list[str]:
    return [each.code.name for each in parse(text, "f", variables=Variables({}))[1]]  # type: ignore[attr-defined]


NINE = ", ".join(["*a{0}"] * 9)
BOMBS = {
    "lists": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{NINE.format(n - 1)}]\n" for n in range(1, 40)),
    "mappings": "a0: &a0 {k: v}\n"
    + "".join(f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}\n" for n in range(1, 40)),
    "merge keys": "a0: &a0 {k: v}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{NINE.format(n - 1)}]}}\n" for n in range(1, 40)),
    "moderate aliases": "a: &a [" + "x," * 500 + "]\nb: [" + "*a," * 3000 + "]\n",
    "flow depth": "[" * 100_000,
    "mapping depth": "{a: " * 100_000,
    "block depth": "- " * 100_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_within_two_seconds(name: str) -> None:
    began = time.monotonic()
    found = codes(BOMBS[name])
    assert time.monotonic() - began < 2
    assert found and set(found) <= {"TOO_LARGE", "SYNTAX"}


def test_an_anchor_that_is_used_often_is_no_bomb() -> None:
    assert (
        codes("a: &a {" + ", ".join(f"k{n}: v" for n in range(100)) + "}\nb: [" + "*a, " * 300 + "]\n") == []
    )


def test_file_beyond_the_largest_size_is_refused() -> None:
    assert codes("#" * (16 * 2**20 + 1)) == ["TOO_LARGE"]


def test_duplicate_keys_are_found_after_normalisation() -> None:
    assert codes("\u00e9: 1\ne\u0301: 2\n") == ["DUPLICATE_KEY"]


def test_explicit_key_wins_over_a_merged_one() -> None:
    (root,), problems = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n", "f", variables=Variables({}))
    assert problems == ()
    assert root.data["b"] == {"x": 3, "y": 2}


def test_every_value_and_key_has_its_place() -> None:
    (root,), _ = parse("a:\n  - b: 'c d'\n", "f", variables=Variables({}))
    value, key = root.find("a", 0, "b"), root.find("a", 0, "b", "[key]")
    assert (value.line, value.column, value.width) == (2, 8, 5)
    assert (key.line, key.column, key.width) == (2, 5, 1)


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("${A}", "1"),
        ("x${A}y${B}", "x1y"),
        ("${B:-d}", "d"),
        ("${B-d}", ""),
        ("${C-d}", "d"),
        ("${C:-${A}}", "1"),
        ("${A:+x}${C:+y}", "x"),
        ("${A:?why}", "1"),
        ("$$ $${A} $HOME $(x)", "$ ${A} $HOME $(x)"),
    ],
)
def test_variables_are_put_in(text: str, out: str) -> None:
    assert interpolate(text, Variables({"A": "1", "B": ""})) == (out, ())


@pytest.mark.parametrize(
    "text",
    ["${C}", "${B:?}", "${C?no}", "${", "${}", "${A", "${1}", "${A!}", "${A:}", "${A:-" * 20 + "}" * 20],
)
def test_variable_that_cannot_be_put_in_is_a_problem(text: str) -> None:
    _, problems = interpolate(text, Variables({"B": ""}))
    assert problems


def test_variables_cannot_blow_a_file_up() -> None:
    found = parse("[" + "'${A}', " * 2000 + "]", "f", variables=Variables({"A": "x" * 100_000}))[1]
    assert {each.code.name for each in found} == {"TOO_LARGE"}  # type: ignore[attr-defined]


FRAGMENTS = st.sampled_from(
    [
        *(
            "stack: s",
            "containers:",
            "groups:",
            "  a:",
            "    rootfs: host",
            "    command: [x]",
            "    command: ",
            "\n",
            "  ",
        ),
        *(
            "networks: {a: {subnet: 10.0.0.0/8}}",
            "&a ",
            "*a",
            "<<: *a",
            "- ",
            "{",
            "}",
            "[",
            "]",
            ",",
            ": ",
            "'",
            '"',
            "#",
        ),
        *(
            "\t",
            "null",
            "~",
            "true",
            "on",
            "1e9",
            "010",
            "${A}",
            "${",
            "$$",
            "!!str ",
            "%YAML 1.1",
            "---\n",
            "...\n",
            "? ",
        ),
        *(
            "\u2028",
            "\x00",
            "\ud800",
            "\U0001f4a5",
            "    publish: ['1:1']",
            "    depends_on: [a]",
            "|",
            "\\",
            ">",
        ),
        *(
            "    limits: {memory: 1}",
            "    health: {http: ':1'}",
            "    mounts: [{tmpfs: 1MiB, target: /a}]",
            "    replicas: 3",
        ),
    ]
)
KEYS = st.sampled_from(
    [
        *(
            "stack",
            "limits",
            "rootfs",
            "networks",
            "volumes",
            "containers",
            "groups",
            "command",
            "env",
            "env_file",
            "mounts",
        ),
        *(
            "health",
            "job",
            "replicas",
            "publish",
            "depends_on",
            "image",
            "services",
            "ulimits",
            "io",
            "http",
            "stop",
            "logs",
        ),
        *("x-y", "directory", "archive", "sha256", "target", "volume", "a"),
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
FEW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@FEW
@given(st.lists(FRAGMENTS, max_size=25).map("".join) | st.text(max_size=60))
def test_any_text_gives_diagnostics_or_stacks(text: str) -> None:
    loaded = load(["-"], {"A": "1"}, stdin=text)
    stacks, diagnostics = resolve_all(loaded)
    assert bool(stacks) != bool(diagnostics)
    render(diagnostics, loaded.sources)


@FEW
@given(st.dictionaries(KEYS, VALUES, max_size=6), st.dictionaries(KEYS, VALUES, max_size=8))
def test_any_structure_gives_diagnostics_or_stacks(
    top: dict[str, object], container: dict[str, object]
) -> None:
    text = json.dumps(
        {**top, "stack": "s", "containers": {"a": {"rootfs": "host", "command": ["x"], **container}}}
    )
    loaded = load(["-"], {"A": "1"}, stdin=text)
    stacks, diagnostics = resolve_all(loaded)
    assert bool(stacks) != bool(diagnostics)
    assert all(each.span is not None for each in diagnostics)
