"""Command probes: a command inside the container, through the runtime's exec.

In: a runtime. Out: a function from target and probe to a verdict. Its output goes to a memfd, which the kernel charges to
the container that writes it; of it at most 1 KiB is read.
"""

from __future__ import annotations

import os

from orchestrator.control.attempts import Verdict
from orchestrator.control.health import OUTPUT_LIMIT
from orchestrator.control.probes import RunCommand
from orchestrator.control.tracking import Target
from orchestrator.errors import OrchestratorError
from orchestrator.model.desired import CommandProbe
from orchestrator.ports.driver import ExecRequest, Runtime


def in_container(runtime: Runtime) -> RunCommand:
    """Exit code 0 is healthy; the container's own environment; killed after the probe's timeout."""

    def run(target: Target, probe: CommandProbe) -> Verdict:
        request = ExecRequest(command=probe.command, env=target.env)
        output = os.memfd_create("probe", os.MFD_CLOEXEC)
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            code = runtime.exec(target.incarnation, request, (nothing, output, output), target.probe.timeout)
            text = os.pread(output, OUTPUT_LIMIT, 0).decode(errors="replace").strip()
        except OrchestratorError as error:
            return Verdict(False, error.message)
        finally:
            os.close(output)
            os.close(nothing)
        if code == 0:
            return Verdict(True, text)
        said = f"no answer in {target.probe.timeout:g} s" if code == 124 else f"exit {code}"
        return Verdict(False, f"{said}: {text}" if text else said)

    return run
