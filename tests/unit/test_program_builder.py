"""The set-up lists of containers, groups and execs, compared with golden data in tests/cases/programs.

A case file holds the inputs and the program in its wire form, one operation a line. After a wanted change:
`UPDATE_PROGRAMS=1 pytest tests/unit/test_program_builder.py`, then read the diff as you would read code.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.drivers.embedded.program import Place, container_program, exec_program, group_program
from orchestrator.model import codec
from orchestrator.model.desired import ContainerSpec, GroupSpec
from orchestrator.ports.driver import ExecRequest, Root
from orchestrator.supervisor import program as ops
from orchestrator.supervisor.program import IdMap, Program, from_wire, to_wire

CASES = Path(__file__).parents[1] / "cases" / "programs"


def built(case: dict[str, Any]) -> Program:
    group = codec.decode(GroupSpec, case["group"])
    if "folder" in case:
        return group_program(group, case["folder"])
    spec = codec.decode(ContainerSpec, case["spec"])
    if "request" in case:
        request = {**case["request"], "command": tuple(case["request"]["command"])}
        size = tuple(case["size"]) if "size" in case else None
        return exec_program(spec, group, ExecRequest(**request), seccomp="RklMVEVS", size=size)
    data = dict(case["place"])
    root = data.pop("root")
    maps = {
        key: tuple(IdMap(inside=a, outside=b, count=c) for a, b, c in data.pop(key, ()))
        for key in ("uid_maps", "gid_maps")
    }
    frozen = {key: tuple(each) if isinstance(each, list) else each for key, each in data.items()}
    where = Root(lowers=tuple(root["lowers"]), binds=tuple((a, b) for a, b in root.get("binds", ())))
    return container_program(spec, group, Place(root=where, **frozen, **maps))


def written(case: dict[str, Any], program: Program) -> str:
    wire = json.loads(json.dumps(to_wire(program)))
    head = {key: value for key, value in case.items() if key != "program"}
    lines = [json.dumps(head, indent=1)[:-2], ' "program": {']
    lines[0] += ","
    for key in ("new", "cgroup", "uid_maps", "gid_maps"):
        lines.append(f'  "{key}": {json.dumps(wire[key])},')
    lines.append('  "operations": [')
    lines.append(",\n".join(f"   {json.dumps(each)}" for each in wire["operations"]))
    return "\n".join([*lines, "  ]", " }", "}", ""])


@pytest.mark.parametrize("name", sorted(each.stem for each in CASES.glob("*.json")))
def test_program_is_as_golden_data_says(name: str) -> None:
    path = CASES / f"{name}.json"
    case = json.loads(path.read_text())
    program = built(case)
    if os.environ.get("UPDATE_PROGRAMS"):
        path.write_text(written(case, program))
    assert json.loads(written(case, program))["program"] == case.get("program")


@pytest.mark.parametrize("name", sorted(each.stem for each in CASES.glob("*.json")))
def test_program_survives_the_wire(name: str) -> None:
    program = built(json.loads((CASES / f"{name}.json").read_text()))
    assert from_wire(json.loads(json.dumps(to_wire(program)))) == program


def everything() -> Program:
    return built(json.loads((CASES / "everything.json").read_text()))


def position(program: Program, *kinds: type) -> list[int]:
    return [index for index, each in enumerate(program.operations) if isinstance(each, kinds)]


def test_masks_come_after_the_users_mounts_so_that_none_uncovers_them() -> None:
    program = everything()
    last_mount = max(position(program, ops.MountBind, ops.MountFilesystem))
    assert last_mount < min(position(program, ops.MaskPath, ops.ReadOnlyPath))


def test_privileges_go_in_the_order_that_the_kernel_allows() -> None:
    program = everything()
    order = [
        position(program, kind)[0]
        for kind in (
            ops.ChangeDirectory,
            ops.SetIdentity,
            ops.LimitCapabilities,
            ops.NoNewPrivileges,
            ops.LoadSeccomp,
            ops.Execute,
        )
    ]
    assert order == sorted(order)
    assert order[-1] == len(program.operations) - 1


def test_nested_mount_targets_are_mounted_outer_first() -> None:
    targets = [
        each.target
        for each in everything().operations
        if isinstance(each, ops.MountBind | ops.MountFilesystem)
    ]
    assert targets.index("/data") < targets.index("/data/cache")


def test_at_most_eight_capabilities_are_kept() -> None:
    kept = [each.keep for each in everything().operations if isinstance(each, ops.LimitCapabilities)]
    assert len(kept) == 1
    assert len(kept[0]) == 8
    assert not {"SYS_ADMIN", "NET_ADMIN", "MKNOD", "NET_RAW", "SYS_CHROOT"} & set(kept[0])


def test_the_containers_env_wins_over_our_defaults() -> None:
    execute = everything().operations[-1]
    assert isinstance(execute, ops.Execute)
    assert dict(execute.env)["PATH"] == "/app/bin"
    assert dict(execute.env)["HOSTNAME"] == "web-1"


def test_every_mask_and_read_only_path_of_docker_is_there() -> None:
    masked = {each.path for each in everything().operations if isinstance(each, ops.MaskPath)}
    read_only = {each.path for each in everything().operations if isinstance(each, ops.ReadOnlyPath)}
    docker = ["acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi"]
    docker += ["timer_list", "timer_stats"]
    assert {f"/proc/{each}" for each in docker} <= masked
    assert {"/sys/devices/virtual/powercap", "/sys/firmware"} <= masked
    assert {f"/proc/{each}" for each in ("bus", "fs", "irq", "sys", "sysrq-trigger")} <= read_only
