"""The law of restarts, as a table and as simulated time."""

from __future__ import annotations

import pytest

from orchestrator.model.desired import ContainerSpec, Job, RestartPolicy
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Exit, Observation, Phase
from orchestrator.plan.restarts import back_off, completed, decide

REF = Ref(Kind.CONTAINER, "web-1/web")


def seen(*exits: Exit, edited: float | None = None, restarts: int = 0) -> Observation:
    return Observation(
        ref=REF, id="0" * 12, phase=Phase.EXITED, applied={}, exits=exits, edited=edited, restarts=restarts
    )


def spec(policy: RestartPolicy = RestartPolicy.ALWAYS, *, retries: int | None = None) -> ContainerSpec:
    job = Job(retries=retries) if retries is not None else None
    return ContainerSpec(rootfs="base", command=("x",), restart=policy, job=job)


def run(start: float, seconds: float, code: int | None = 1, *, stopped: bool = False) -> Exit:
    return Exit(started=start, ended=start + seconds, code=code, stopped=stopped)


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


def test_an_unknown_exit_counts_and_an_earlier_boots_clock_does_not() -> None:
    unknown = Exit(started=1, ended=2)
    assert decide(spec(RestartPolicy.ON_FAILURE), seen(unknown), 3).reason == "unknown exit"
    assert decide(spec(), seen(run(90000, 1)), 10).reason == "not running"
