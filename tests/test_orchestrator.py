"""The loop: isolation, intervals, back-off, catch-up, and what is noted about runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from collectors.base import BaseCollector, Batch, Options
from collectors.errors import (
    AuthError,
    CollectError,
    RateLimitedError,
    SettingsError,
    SourceUnavailableError,
)
from collectors.ledger import reports
from collectors.logs import Redaction
from collectors.orchestrator import Intervals, Orchestrator
from tests.support.collecting import (
    Flooding,
    InlineLoop,
    Scripted,
    finding,
    hanging,
    in_inline_time,
    raising,
    running,
)
from tests.support.ledgers import point

DOWN = SourceUnavailableError("the source is down", "wait")


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """What was logged."""
    with capture_logs() as entries:
        yield entries


def events(logs: list[Any], name: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == name]


# -- isolation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(raising(DOWN), id="expected"),
        pytest.param(raising(ZeroDivisionError()), id="fault"),
        pytest.param(raising(SystemExit(3)), id="exit"),
        pytest.param(raising(asyncio.CancelledError()), id="cancels_itself"),
        pytest.param(raising(TimeoutError()), id="own_timeout"),
        pytest.param(hanging(), id="hangs"),
        pytest.param(lambda: ["not a point"], id="no_points"),
    ],
)
@in_inline_time
async def test_a_collector_in_trouble_neither_delays_nor_ends_another(
    tmp_path: Path, trouble: Any
) -> None:
    bad = Scripted(*[trouble] * 400, name="bad")
    good = Scripted(name="good")

    async with running(tmp_path, bad, good) as it:
        await it.run_for(3_601)

        assert good.gaps == [10.0] * 360
        assert len(bad.started) > 3
        assert (
            it.orchestrator.health["bad"].consecutive_failures == it.orchestrator.health["bad"].runs
        )
        assert it.orchestrator.health["good"].error == ""


async def test_a_flood_of_batches_leaves_others_their_turn(tmp_path: Path) -> None:
    good = Scripted(*[finding(f"call {n}") for n in range(9)], name="good")

    async with running(tmp_path, Flooding(), good, intervals=Intervals(local=0.03)) as it:
        await it.run_for(0.6)
        found = it.rows(
            "SELECT count(*) FROM record JOIN series ON series.id=series WHERE source='good'"
        )

        assert len(good.started) >= 10
        assert found == [(9,)]
        assert it.rows("SELECT count(*) > 20 FROM record") == [(1,)]


@in_inline_time
async def test_a_source_that_cannot_say_whether_it_is_there_is_run_and_fails_by_name(
    tmp_path: Path,
) -> None:
    class Broken(Scripted):
        def is_configured(self) -> bool:
            raise OSError("gone")

    bad, good = Broken(raising(OSError("gone")), name="bad"), Scripted(name="good")

    async with running(tmp_path, bad, good) as it:
        health = {item.name: item.error for item in await it.orchestrator.run_all_once()}

        assert health == {"bad": "OSError in the collector bad", "good": ""}


@in_inline_time
async def test_an_error_whose_own_text_is_broken_is_still_only_that_collectors(
    tmp_path: Path,
) -> None:
    class UnspeakableError(CollectError):
        def __init__(self) -> None:
            pass

        def __str__(self) -> str:
            raise RuntimeError

    class EndlessError(RateLimitedError):
        def __init__(self, retry_after: Any) -> None:
            self.retry_after = retry_after

    odd = [
        raising(e)
        for e in (
            UnspeakableError(),
            EndlessError(None),
            EndlessError("soon"),
            EndlessError(float("nan")),
        )
    ]
    bad = Scripted(*odd, name="bad")

    async with running(tmp_path, bad) as it:
        await it.run_for(200)

        assert bad.gaps[:4] == [10.0, 20.0, 40.0, 80.0]


@in_inline_time
async def test_a_batch_that_takes_too_long_is_given_up_and_what_came_before_is_kept(
    tmp_path: Path,
) -> None:
    class Slow(BaseCollector[Options]):
        name: ClassVar[str] = "slow"

        def is_configured(self) -> bool:
            return True

        async def read(self, cursor: Mapping[str, Any]) -> AsyncIterator[Batch]:
            yield Batch(points=[point("first")], cursor={"at": 1})
            await asyncio.sleep(119)
            yield Batch(points=[point("second")], cursor={"at": 2})
            await asyncio.sleep(121)
            yield Batch(points=[point("third")], cursor={"at": 3})

    async with running(tmp_path, Slow()) as it:
        [health] = await it.orchestrator.run_all_once()

        assert health.error == "slow took longer than 120 s"
        assert it.rows("SELECT count(*) FROM record") == [(2,)]
        assert it.rows("SELECT value FROM cursor WHERE source='slow'") == [("2",)]


@in_inline_time
async def test_two_points_with_one_key_fail_their_collector_and_store_nothing(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, Scripted(finding("same", "same"))) as it:
        [health] = await it.orchestrator.run_all_once()

        assert "two points with the same key" in health.error
        assert it.rows("SELECT count(*) FROM record") == [(0,)]


# -- when runs happen ------------------------------------------------------------------------------


@in_inline_time
async def test_local_sources_are_read_every_local_interval_and_others_every_collect_interval(
    tmp_path: Path,
) -> None:
    local, remote = Scripted(name="local"), Scripted(name="remote", is_local=False)

    async with running(tmp_path, local, remote) as it:
        await it.run_for(3_601)

        assert local.gaps == [10.0] * 360
        assert all(285 <= gap <= 315 for gap in remote.gaps)
        assert len(set(remote.gaps)) > 6  # spread
        assert 11 <= len(remote.started) <= 13


@in_inline_time
async def test_failures_in_a_row_are_tried_again_later_and_later_up_to_a_quarter_of_an_hour(
    tmp_path: Path,
) -> None:
    failing = Scripted(*[raising(DOWN)] * 11)

    async with running(tmp_path, failing) as it:
        await it.run_for(5_000)

        assert failing.gaps[:7] == [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0]
        assert failing.gaps[7:12] == [900.0, 900.0, 900.0, 900.0, 10.0]


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (RateLimitedError("slow down", 37), 37.0),
        (RateLimitedError("slow down", 4_000), 4_000.0),
        (RateLimitedError("slow down", 1e12), 21_600.0),
        (RateLimitedError("slow down", 0.5), 10.0),
        (RateLimitedError("slow down", -5), 10.0),
        (AuthError("the key was refused", "set another"), 3_600.0),
    ],
)
@in_inline_time
async def test_a_source_is_left_alone_as_long_as_its_answer_asks_for(
    tmp_path: Path, error: Exception, pause: float
) -> None:
    source = Scripted(raising(error))

    async with running(tmp_path, source) as it:
        await it.run_for(pause + 15)

        assert source.gaps[:2] == [pause, 10.0]


@in_inline_time
async def test_a_remote_source_is_never_asked_again_earlier_than_it_said(tmp_path: Path) -> None:
    source = Scripted(*[raising(RateLimitedError("slow down", 700))] * 30, is_local=False)

    async with running(tmp_path, source) as it:
        await it.run_for(15_000)

        assert set(source.gaps) == {700.0}


@in_inline_time
async def test_a_run_longer_than_the_interval_is_followed_by_one_run_not_by_those_missed(
    tmp_path: Path,
) -> None:
    class Slow(Scripted):
        async def collect(self) -> list[Any]:
            await super().collect()
            await asyncio.sleep(95 if len(self.started) == 1 else 0)
            return []

    slow = Slow()

    async with running(tmp_path, slow) as it:
        await it.run_for(130)

        assert slow.gaps == [95.0, 10.0, 10.0, 10.0]


@in_inline_time
async def test_a_source_that_appears_later_is_read_from_then_on(tmp_path: Path) -> None:
    late = Scripted(finding("call"))
    late.is_there = False

    async with running(tmp_path, late) as it:
        asyncio.get_running_loop().call_later(100, setattr, late, "is_there", True)
        await it.run_for(95)
        before = (list(late.started), it.orchestrator.health["scripted"].runs)
        await it.run_for(30)

        assert before == ([], 0)
        assert it.rows("SELECT count(*) FROM record") == [(1,)]


async def sleep_through(kind: type[Orchestrator], folder: Path) -> list[float]:
    """Starts of runs, in seconds after the lid was opened again."""
    source = Scripted(is_local=False)
    async with running(folder, source, kind=kind) as it:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, InlineLoop)
        opened_at = 1_000 + 8 * 3_600.0
        loop.call_later(1_000, loop.suspend, 8 * 3_600)
        await it.run_for(opened_at + 280)
        return [moment - opened_at for moment in source.started if moment >= opened_at - 1]


@in_inline_time
async def test_e4_eight_hours_of_sleep_are_followed_by_one_catch_up(tmp_path: Path) -> None:
    assert len(await sleep_through(Orchestrator, tmp_path)) == 1


class MakesUp(Orchestrator):
    """The mutant: turns that were missed are made up for, one by one."""

    async def _repeat(self, collector: Any, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not stop.is_set():
            await self.run_once(collector)
            due += self.interval_of(collector)
            await asyncio.sleep(max(0.0, due - loop.time()))


@in_inline_time
async def test_e4_the_sleep_catches_turns_made_up_for(tmp_path: Path) -> None:
    assert len(await sleep_through(MakesUp, tmp_path)) > 90


@in_inline_time
async def test_a_command_and_the_loop_never_run_one_collector_twice_at_once(tmp_path: Path) -> None:
    class Watched(Scripted):
        busy = most = 0

        async def collect(self) -> list[Any]:
            self.busy += 1
            self.most = max(self.most, self.busy)
            await asyncio.sleep(3)
            self.busy -= 1
            return []

    watched = Watched()

    async with running(tmp_path, watched) as it, asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(it.orchestrator.run_once(watched))

    assert watched.most == 1
    assert asyncio.get_running_loop().time() == pytest.approx(12, abs=0.1)


# -- what is said and noted ------------------------------------------------------------------------


@in_inline_time
async def test_a_failure_is_reported_when_it_starts_and_when_it_is_over(
    tmp_path: Path, logs: list[Any]
) -> None:
    source = Scripted(raising(DOWN), raising(DOWN), raising(DOWN), finding("call"))

    async with running(tmp_path, source) as it:
        await it.run_for(200)

    failed = events(logs, "collector.failed")
    assert [entry["log_level"] for entry in failed] == ["warning", "debug", "debug"]
    assert (failed[0]["error"], failed[0]["hint"]) == ("the source is down", "wait")
    assert [entry["failures"] for entry in events(logs, "collector.recovered")] == [3]


@in_inline_time
async def test_a_fault_of_a_collector_is_logged_with_its_traceback_once(
    tmp_path: Path, logs: list[Any]
) -> None:
    error = ZeroDivisionError("1/0")

    async with running(tmp_path, Scripted(raising(error), raising(error))) as it:
        await it.run_for(15)

    failed = events(logs, "collector.failed")
    assert [(entry["log_level"], entry["exc_info"]) for entry in failed] == [
        ("error", error),
        ("debug", error),
    ]


@in_inline_time
async def test_a_wrong_setting_found_while_running_is_told_with_its_hint(tmp_path: Path) -> None:
    error = SettingsError("KEY_FILE names /x, which is empty", "write the secret into it")

    async with running(tmp_path, Scripted(raising(error))) as it:
        [health] = await it.orchestrator.run_all_once()

        assert (health.error, health.hint) == (str(error), "write the secret into it")


@in_inline_time
async def test_news_are_noted_at_once_and_quiet_runs_once_per_collect_interval(
    tmp_path: Path,
) -> None:
    nothing = finding()
    script = [finding("call"), nothing, raising(DOWN), nothing, nothing]

    async with running(tmp_path, Scripted(*script)) as it:
        await it.run_for(1_000)
        runs = [(run.changed, run.error) for run in reversed(reports.runs(it.guard.ledger.db))]

        # found, failed, recovered, and then a line every five minutes
        assert runs == [(1, ""), (0, "the source is down"), (0, ""), (0, ""), (0, ""), (0, "")]
        assert it.orchestrator.health["scripted"].runs == len(it.orchestrator.collectors[0].started)  # type: ignore[attr-defined]


@in_inline_time
async def test_a_last_success_is_remembered_through_failures_and_unknown_before_the_first(
    tmp_path: Path,
) -> None:
    source = Scripted(raising(DOWN), finding("call"), raising(DOWN))

    async with running(tmp_path, source) as it:
        health = it.orchestrator.health["scripted"]
        await it.orchestrator.run_once(source)
        first = health.last_success
        await it.orchestrator.run_once(source)
        second = health.last_success
        await it.orchestrator.run_once(source)

        assert first == 0.0
        assert second > 1_700_000_000
        assert (health.last_success, health.consecutive_failures) == (second, 1)


@in_inline_time
async def test_a_secret_in_an_error_reaches_neither_the_ledger_nor_the_status(
    tmp_path: Path,
) -> None:
    clean = Redaction(["sk-canary-0001"]).clean
    error = CollectError("GET /v1?key=sk-canary-0001 failed", "replace sk-canary-0001")

    async with running(tmp_path, Scripted(raising(error)), clean=clean) as it:
        [health] = await it.orchestrator.run_all_once()

        assert (health.error, health.hint) == (
            "GET /v1?key=[redacted] failed",
            "replace [redacted]",
        )
        assert it.rows("SELECT error, hint FROM run") == [(health.error, health.hint)]


@in_inline_time
async def test_the_callback_hears_of_every_stored_batch(tmp_path: Path) -> None:
    heard: list[tuple[str, int]] = []

    def note(name: str, stored: Any) -> None:
        heard.append((name, stored.changed))

    async with running(tmp_path, Scripted(finding("a", "b")), on_stored=note) as it:
        await it.orchestrator.run_all_once()

        assert heard == [("scripted", 2)]
