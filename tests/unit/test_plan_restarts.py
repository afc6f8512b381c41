"""The law of restarts, as a table and as simulated time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.model.desired import ContainerSpec, Health, Job, OnUnhealthy, RestartPolicy, TcpProbe
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Exit, Observation, Phase
from orchestrator.model.observed import Health as Found
from orchestrator.plan.restarts import back_off, completed, decide, liveness

REF = Ref(Kind.CONTAINER, "web-1/web")


def seen(*exits: Exit, edited: float | None = None, restarts: int = 0) -> Observation:
    return Observation(
        ref=REF, id="0" * 12, phase=Phase.EXITED, applied={}, exits=exits, edited=edited, restarts=restarts
    )


def spec(policy: RestartPolicy = RestartPolicy.ALWAYS, *, retries: int | None = None) -> ContainerSpec:
    job = Job(retries=retries) if retries is not None else None
    return ContainerSpec(rootfs="base", command=("x",), restart=policy, job=job)


def run(
    start: float, seconds: float, code: int | None = 1, *, stopped: bool = False, fault: str | None = None
) -> Exit:
    return Exit(started=start, ended=start + seconds, code=code, stopped=stopped, fault=fault)


def of_earlier_boot(*codes: int | None) -> tuple[Exit, ...]:
    return tuple(Exit(started=0, ended=0, code=code) for code in codes)


def crashes(count: int, *, seconds: float = 0.1) -> tuple[Exit, ...]:
    """As the law itself would have let it happen."""
    found: list[Exit] = []
    now = 100.0
    for number in range(count):
        found.append(run(now, seconds))
        now += seconds + back_off(number + 1)
    return tuple(found)


def test_the_delays_are_none_then_one_second_doubling_to_sixty() -> None:
    assert [back_off(ends) for ends in range(1, 11)] == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize("policy", [RestartPolicy.ALWAYS, RestartPolicy.ON_FAILURE])
def test_a_crash_is_restarted_at_once_and_then_later(policy: RestartPolicy) -> None:
    first = decide(spec(policy), seen(run(100, 1)), 101)
    assert (first.start, first.not_before, first.reason) == (True, None, "exit 1")
    third = decide(spec(policy), seen(*crashes(3)), 101.3)
    assert third.start and third.not_before == pytest.approx(crashes(3)[-1].ended + 2)


def test_sixty_seconds_up_begin_anew() -> None:
    exits = (*crashes(5), run(200, 61))
    assert decide(spec(), seen(*exits), 261).not_before is None
    assert decide(spec(), seen(*exits, run(261, 1)), 262).not_before == 263


def test_ten_quick_crashes_end_it_and_an_edit_forgives_them() -> None:
    assert decide(spec(), seen(*crashes(9)), 1000).start
    verdict = decide(spec(), seen(*crashes(10)), 1000)
    assert not verdict.start and verdict.failure == "gave up after 10 starts in 10 min: exit 1"
    assert decide(spec(), seen(*crashes(10), edited=900), 1000).start
    assert decide(spec(), seen(*crashes(10, seconds=50)), 2000).start  # not within ten minutes


def test_ends_that_went_well_are_delayed_but_never_given_up() -> None:
    exits = tuple(run(100 + 20 * number, 1, 0) for number in range(12))
    verdict = decide(spec(), seen(*exits), 321)
    assert verdict.start and verdict.not_before == 321 + 60


def test_what_we_stopped_is_started_and_does_not_count() -> None:
    exits = (*crashes(9), run(500, 1, None, stopped=True))
    assert decide(spec(), seen(*exits), 501).reason == "was stopped"
    assert decide(spec(), seen(*exits, run(502, 1)), 503).not_before is None


def test_on_failure_and_never_rest_after_success() -> None:
    for policy in (RestartPolicy.ON_FAILURE, RestartPolicy.NEVER):
        verdict = decide(spec(policy), seen(run(1, 1, 0)), 5)
        assert not verdict.start and verdict.failure is None
    assert decide(spec(RestartPolicy.NEVER), seen(run(1, 1, 2)), 5).failure == "exit 2, restart: never"


def test_a_job_has_its_retries_however_long_it_runs() -> None:
    exits = tuple(run(1000.0 * number, 100) for number in range(1, 5))
    assert decide(spec(retries=3), seen(*exits[:3]), 9000).start
    assert decide(spec(retries=3), seen(*exits), 9000).failure == "job failed: exit 1 after 4 runs"
    assert decide(spec(retries=0), seen(run(1, 1)), 5).failure == "job failed: exit 1 after 1 run"
    assert decide(spec(retries=20), seen(*crashes(16), restarts=20), 9000).failure
    assert decide(spec(retries=20), seen(*crashes(16), restarts=15), 9000).start


def test_a_job_is_completed_by_its_last_run_alone() -> None:
    assert completed(seen(run(1, 1), run(3, 1, 0)))
    assert not completed(seen(run(1, 1, 0), run(3, 1)))
    assert not completed(seen(run(1, 1, 0, stopped=True)))
    assert not decide(spec(retries=3), seen(run(1, 1), run(3, 1, 0)), 9).start


def test_an_unknown_exit_counts() -> None:
    unknown = Exit(started=1, ended=2)
    assert decide(spec(RestartPolicy.ON_FAILURE), seen(unknown), 3).reason == "unknown exit"


@pytest.mark.parametrize(
    ("policy", "code", "start", "failure"),
    [
        (RestartPolicy.ALWAYS, 0, True, None),
        (RestartPolicy.ALWAYS, 1, True, None),
        (RestartPolicy.ON_FAILURE, 0, False, None),
        (RestartPolicy.ON_FAILURE, 1, True, None),
        (RestartPolicy.NEVER, 0, False, None),
        (RestartPolicy.NEVER, 3, False, "exit 3, restart: never"),
        (RestartPolicy.NEVER, None, False, "unknown exit, restart: never"),
    ],
)
def test_after_a_reboot_the_policy_decides_by_the_last_end(
    policy: RestartPolicy, code: int | None, start: bool, failure: str | None
) -> None:
    verdict = decide(spec(policy), seen(*of_earlier_boot(code)), 5)
    assert (verdict.start, verdict.not_before, verdict.failure) == (start, None, failure)


def test_what_a_service_did_in_an_earlier_boot_does_not_count_and_what_a_job_did_does() -> None:
    before = of_earlier_boot(*[1] * 9)
    assert decide(spec(), seen(*before, run(5, 1)), 6) == decide(spec(), seen(run(5, 1)), 6)
    assert decide(spec(retries=9), seen(*before), 5).start
    assert decide(spec(retries=8), seen(*before), 5).failure == "job failed: exit 1 after 9 runs"
    assert not decide(spec(retries=9), seen(*before, *of_earlier_boot(0)), 5).start


# liveness

PROBED = replace(
    spec(), health=Health(probe=TcpProbe(port=1), interval=5, timeout=5, on_unhealthy=OnUnhealthy.RESTART)
)
SLACK = 5 + 3 * 10 + 60  # of a run that ended for its health: to find it out, and to wait


def ill(*exits: Exit, started: float, since: float, edited: float | None = None) -> Observation:
    found = replace(seen(*exits, edited=edited), phase=Phase.RUNNING, started=started)
    return replace(found, health=Found.UNHEALTHY, since=since, said="500")


def sick(start: float, seconds: float) -> Exit:
    return run(start, seconds, 0, stopped=True, fault="is unhealthy: 500")


def test_a_stop_for_its_health_counts_as_a_failure_whatever_the_exit_code() -> None:
    end = sick(100, 1)
    assert not end.success and not end.forgiven and str(end) == "is unhealthy: 500"
    assert decide(PROBED, seen(end), 101).start
    assert decide(PROBED, seen(end, sick(102, 1)), 103).not_before == 104
    assert decide(replace(PROBED, restart=RestartPolicy.ON_FAILURE), seen(end), 101).start


def test_an_unhealthy_container_is_restarted_as_if_it_had_ended_when_it_fell_ill() -> None:
    first = liveness(PROBED, ill(started=100, since=110), 111)
    assert (first.start, first.not_before, first.reason) == (True, None, "is unhealthy: 500")
    ends = tuple(sick(100 + 20 * n, 19) for n in range(4))
    again = ill(*ends, started=180, since=190)
    assert liveness(PROBED, again, 191).not_before == 198
    assert liveness(PROBED, again, 198).not_before is None
    assert liveness(PROBED, replace(again, edited=191), 192).not_before is None
    assert not liveness(replace(PROBED, restart=RestartPolicy.NEVER), again, 200).start


def test_ten_unhealthy_starts_end_it_for_as_long_as_it_stays_so() -> None:
    ends = tuple(sick(100 + 40 * n, 39) for n in range(9))
    for now in (471, 1000, 100_000):
        verdict = liveness(PROBED, ill(*ends, started=460, since=470), now)
        assert verdict.failure == "gave up after 10 starts in 10 min: is unhealthy: 500"
    assert liveness(PROBED, ill(*ends[1:], started=460, since=470), 600).start
    assert liveness(PROBED, ill(*ends, started=460, since=470, edited=500), 500).start


def test_only_sixty_seconds_of_being_well_make_good_what_was_before() -> None:
    ends = tuple(sick(100 + 20 * n, 19) for n in range(4))
    for well, wait in ((59, 8), (60, 0)):
        fell = 180 + well + SLACK
        verdict = liveness(PROBED, ill(*ends, started=180, since=fell), fell)
        assert (verdict.not_before or fell) == fell + wait
    assert decide(PROBED, seen(*ends, sick(180, 60 + SLACK)), 500).not_before is None
    assert decide(PROBED, seen(*ends, run(180, 61)), 242).not_before is None
