"""Every manner a server or a gateway has been seen to have, and what the writer makes of it."""

from __future__ import annotations

import asyncio
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from collectors.errors import SettingsError
from collectors.outputs.influx import InfluxTarget, State
from collectors.outputs.influx import client as client_module
from collectors.outputs.influx.answers import Answer, safe_url, server_text
from collectors.outputs.influx.delivery import Delivery, Items
from collectors.outputs.lines import status_line
from tests.support.fault_server import (
    BUCKET,
    FAULTS,
    ORG,
    TOKEN,
    FaultServer,
    PoisonManner,
)
from tests.support.outbox import MakeRig, Rig, outbox_factory
from tests.support.sending import fill, report, target_of, wall, writing
from tests.support.virtual_time import in_virtual_time

START = 1_750_000_000
__all__ = ["outbox_factory"]  # a fixture: importing it is using it

STRANGE_FAULTS = ["200_html", "202", "301", "302", "303", "307", "308"]


@pytest.fixture
def rig(outbox_factory: MakeRig) -> Rig:
    """An empty outbox."""
    return outbox_factory()


def is_poison_model(line: str) -> bool:
    """The line a server will never take, in these tests."""
    return ",model=poison," in line


# -- one fault each ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
@in_virtual_time
async def test_after_any_fault_everything_arrives_and_nothing_is_set_aside(
    outbox_factory: MakeRig, fault: str
) -> None:
    rig = outbox_factory()
    fill(rig, 20, models=2)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.script.append(fault)
        for _ in range(3):
            await writer.flush(wall())
            await asyncio.sleep(700)

        report("D4 D11 D12", manner=fault, n=20, requests=len(server.request_sizes))
        assert server.store == rig.expected()
        assert rig.pending() == 0
        assert rig.dead_letters() == []
        assert server.followed_redirects == 0
        assert writer.state is State.OK


@pytest.mark.parametrize("fault", STRANGE_FAULTS)
@in_virtual_time
async def test_what_is_not_204_is_no_acknowledgement(rig: Rig, fault: str) -> None:
    fill(rig, 5)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.script.append(fault)
        result = await writer.flush(wall())

        assert (result.sent, result.pending, result.state) == (0, 5, State.MISCONFIGURED)
        assert f"status {fault[:3]}, which InfluxDB never does" in str(result.error)
        assert server.followed_redirects == 0


@in_virtual_time
async def test_the_mutant_any2xx_is_caught(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(rig, 5)
    honest = client_module.InfluxClient.write

    async def any2xx(self: client_module.InfluxClient, body: str) -> Answer:
        answer = await honest(self, body)
        return Answer(204) if 200 <= answer.status < 300 else answer

    monkeypatch.setattr(client_module.InfluxClient, "write", any2xx)
    async with FaultServer() as server, writing(server, rig) as writer:
        server.script.append("200_html")
        await writer.flush(wall())

        assert rig.pending() == 0
        assert server.store != rig.expected()


@in_virtual_time
async def test_a_hanging_server_costs_thirty_seconds_and_no_second_try_in_the_pass(
    rig: Rig,
) -> None:
    fill(rig, 5)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.script.append("hang")
        started = asyncio.get_running_loop().time()
        result = await writer.flush(wall())
        seconds = asyncio.get_running_loop().time() - started

        assert 30 <= seconds < 31
        assert len(server.request_sizes) == 1
        assert result.state is State.UNREACHABLE
        assert "no answer within 30 s" in str(result.error)


@pytest.mark.parametrize("fault", ["drip", "endless"])
@in_virtual_time
async def test_a_reply_without_an_end_neither_holds_the_writer_nor_fills_the_memory(
    rig: Rig, fault: str
) -> None:
    fill(rig, 5)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.script.append(fault)
        started = asyncio.get_running_loop().time()
        await writer.flush(wall())

        assert asyncio.get_running_loop().time() - started < 40


# -- poisonous lines -----------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["1", "2", "2_partial", "3", "breakdown", "mute"])
@pytest.mark.parametrize("place", [0, 1, 377, 500, 998, 999])
@in_virtual_time
async def test_a_poisonous_line_takes_none_of_its_999_neighbours_with_it(
    rig: Rig, manner: PoisonManner, place: int
) -> None:
    fill(rig, 999)
    rig.add(START + 300 * place, "poison", 5)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.is_poison = is_poison_model
        server.poison_manner = manner
        result = await writer.flush(wall())

        stored = {key for key in server.store if ("model", "poison") not in key[1]}
        # A breakdown is tried three times before its content is suspected, and three times alone.
        tries = 4 if manner == "breakdown" else 0
        most = math.floor(2 * math.log2(1_000) + 1) + tries
        report(
            "D6 D7", manner=manner, place=place, stored=len(stored), requests=server.counts["ok"]
        )
        assert len(stored) == 999
        assert (result.sent, result.refused, result.pending) == (999, 1, 0)
        assert [(kind, model) for kind, _, model in rig.dead_letters()] == [("refused", "poison")]
        assert server.counts["ok"] <= most


@in_virtual_time
async def test_the_mutant_that_drops_a_refused_batch_is_caught(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(rig, 99)
    rig.add(START, "poison", 5)

    async def drop(self: Delivery, items: Items, answer: Answer) -> None:
        for item in items:
            await self._to.refuse(item, answer)

    monkeypatch.setattr(Delivery, "split", drop)
    async with FaultServer() as server, writing(server, rig) as writer:
        server.is_poison = is_poison_model
        result = await writer.flush(wall())

        assert (result.sent, result.refused) == (0, 100)
        assert len(server.store) == 0


@in_virtual_time
async def test_the_bound_on_requests_holds_for_every_size_and_place(
    outbox_factory: MakeRig,
) -> None:
    async with FaultServer() as server:
        server.is_poison = is_poison_model
        for count in (1, 2, 3, 5, 6, 9, 12):
            for place in range(count):
                rig = outbox_factory()
                for number in range(count):
                    rig.add(START + 300 * number, "poison" if number == place else "m", 1)
                async with writing(server, rig, requests_per_second=1e6) as writer:
                    before = len(server.request_sizes)
                    result = await writer.flush(wall())

                requests = len(server.request_sizes) - before
                assert (result.sent, result.refused) == (count - 1, 1)
                assert requests <= 2 * math.log2(count) + 1, (count, place)


@pytest.mark.parametrize("manner", ["1", "2", "3", "breakdown", "mute"])
@in_virtual_time
async def test_fifty_poisonous_lines_are_all_found(rig: Rig, manner: PoisonManner) -> None:
    fill(rig, 950)
    rig.add_many([(START + 300 * 19 * n, "poison", 5) for n in range(50)])

    async with FaultServer() as server, writing(server, rig, requests_per_second=1e6) as writer:
        server.is_poison = is_poison_model
        server.poison_manner = manner
        result = await writer.flush(wall())

        report("D6", manner=manner, bad=50, requests=server.counts["ok"])
        assert (result.sent, result.refused, result.pending) == (950, 50, 0)


@in_virtual_time
async def test_a_refused_line_is_tried_again_only_when_it_changes(rig: Rig) -> None:
    fill(rig, 3)
    rig.add(START, "poison", 5)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.is_poison = is_poison_model
        for _ in range(3):
            await writer.flush(wall())
            await asyncio.sleep(700)
        quiet = len(server.request_sizes)
        await writer.flush(wall())
        silent = len(server.request_sizes) - quiet
        server.is_poison = None
        rig.add(START, "poison", 5)
        await writer.flush(wall())

        assert silent == 0
        assert server.store == rig.expected()
        assert rig.dead_letters() == []


@in_virtual_time
async def test_refused_lines_are_logged_once_per_pass_with_the_reason(rig: Rig) -> None:
    fill(rig, 20)
    rig.add(START, "poison", 5)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.is_poison = is_poison_model
        server.poison_manner = "2_partial"
        with capture_logs() as logs:
            await writer.flush(wall())

    [entry] = logs
    assert (entry["event"], entry["rows"], entry["log_level"]) == ("influx.refused", 1, "warning")
    assert "field type conflict" in entry["last"]


@pytest.mark.parametrize("count", [1, 1_000])
@in_virtual_time
async def test_a_gateway_that_refuses_everything_makes_no_dead_letters(
    rig: Rig, count: int
) -> None:
    fill(rig, count)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.decide = lambda: "400"
        result = await writer.flush(wall())

        assert rig.dead_letters() == []
        assert (result.pending, result.state) == (count, State.MISCONFIGURED)
        assert len(server.request_sizes) <= 2 * math.log2(max(count, 2)) + 1


@in_virtual_time
async def test_a_server_that_breaks_down_on_everything_makes_no_dead_letters(rig: Rig) -> None:
    fill(rig, 1_000)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.decide = lambda: "500"
        results = []
        for _ in range(20):
            results.append(await writer.flush(wall()))
            await asyncio.sleep(900)

        # A hunt of at most 26 requests every fourth pass, one probe in the others.
        assert rig.dead_letters() == []
        assert (results[-1].pending, results[-1].state) == (1_000, State.UNREACHABLE)
        assert len(server.request_sizes) <= 3 + 20 + 6 * 26


@in_virtual_time
async def test_a_lone_poison_is_found_once_anything_else_is_stored(rig: Rig) -> None:
    rig.add(START, "poison", 5)
    heartbeat = status_line("exporter_status", {"host": "box"}, {"heartbeat": 1}, 9)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.is_poison = is_poison_model
        server.poison_manner = "breakdown"
        first = await writer.flush(wall())
        await asyncio.sleep(100)
        assert await writer.send_gauges([heartbeat])
        for _ in range(5):
            await writer.flush(wall())
            await asyncio.sleep(1_000)

        assert first.refused == 0
        assert rig.pending() == 0
        assert [kind for kind, _, _ in rig.dead_letters()] == ["refused"]


# -- sizes and ages ------------------------------------------------------------------------------


@in_virtual_time
async def test_a_size_limit_is_met_by_halving_and_remembered(rig: Rig) -> None:
    fill(rig, 2_000)

    async with FaultServer() as server, writing(server, rig, requests_per_second=1e6) as writer:
        server.max_body = 150_000
        await writer.flush(wall())
        first = len(server.request_sizes)
        fill(rig, 2_000)
        await writer.flush(wall())
        second = len(server.request_sizes) - first

        report("D5", first=first, second=second)
        assert server.store == rig.expected()
        assert rig.dead_letters() == []
        assert first <= 25
        assert second <= 12  # 700 kB in bodies of 64 to 150 kB, none of them refused


@pytest.mark.parametrize("kept", [0, 1, 400, 999])
@in_virtual_time
async def test_rows_older_than_the_bucket_keeps_are_set_aside_in_a_few_requests(
    rig: Rig, kept: int
) -> None:
    fill(rig, 1_000)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.keeps_from_ns = (START + 300 * (1_000 - kept)) * 10**9
        result = await writer.flush(wall())

        report("D8", kept=kept, requests=len(server.request_sizes))
        assert (result.sent, result.outside_retention) == (kept, 1_000 - kept)
        assert (result.refused, result.pending, result.state) == (0, 0, State.OK)
        assert {kind for kind, _, _ in rig.dead_letters()} == {"outside_retention"}
        assert len(server.store) == kept
        assert len(server.request_sizes) <= 2 * math.log2(1_000) + 1


@in_virtual_time
async def test_a_retention_once_learned_costs_no_request_more(rig: Rig) -> None:
    fill(rig, 10)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.keeps_from_ns = (START + 300 * 5) * 10**9
        await writer.flush(wall())
        before = server.line_count
        rig.add(START + 300, "late", 1)
        with capture_logs() as logs:
            result = await writer.flush(wall())

        assert server.line_count == before
        assert result.outside_retention == 1
        assert [entry["log_level"] for entry in logs] == ["info"]


@in_virtual_time
async def test_a_young_row_is_never_taken_for_too_old(rig: Rig) -> None:
    rig.add(int(wall()) - 60, "m", 1)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.keeps_from_ns = 2 * 10**18
        await writer.flush(wall())
        server.keeps_from_ns = None
        rig.add(int(wall()) - 120, "m", 1)
        result = await writer.flush(wall())

        assert result.sent == 1


# -- settings that are wrong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        ({"token": "other"}, "does not accept INFLUXDB_TOKEN", "INFLUXDB_TOKEN_FILE"),
        ({"org": "other"}, "no organisation 'tokendash'", "INFLUXDB_ORG"),
        ({"bucket": "other"}, "no bucket 'tokens'", "INFLUXDB_BUCKET"),
    ],
)
@in_virtual_time
async def test_a_wrong_setting_is_named_once_and_everything_is_kept(
    rig: Rig, change: dict[str, str], words: str, hint: str
) -> None:
    fill(rig, 30)

    async with FaultServer() as server, writing(server, rig) as writer:
        for name, value in change.items():
            setattr(server, name, value)
        with capture_logs() as logs:
            results = [await writer.flush(wall()) for _ in range(3)]

        result = results[-1]
        warnings = [entry for entry in logs if entry["log_level"] == "warning"]
        assert [entry["event"] for entry in warnings] == ["influx.failed"]
        assert words in str(result.error)
        assert result.error is not None
        assert hint in result.error.hint
        assert (result.pending, result.state) == (30, State.MISCONFIGURED)
        assert rig.dead_letters() == []
        assert TOKEN not in json.dumps(logs)
        assert len(server.request_sizes) == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [("403", "may not write bucket 'tokens'"), ("404_html", "no path for writes")],
)
@in_virtual_time
async def test_other_refusals_of_the_request_say_what_they_are(
    rig: Rig, fault: str, words: str
) -> None:
    fill(rig, 1)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.script.append(fault)
        result = await writer.flush(wall())

        assert words in str(result.error)


@in_virtual_time
async def test_a_wrong_setting_is_probed_slowly(rig: Rig) -> None:
    fill(rig, 30)
    stop = asyncio.Event()

    async with FaultServer() as server, writing(server, rig) as writer:
        server.token = "other"
        async with asyncio.TaskGroup() as group:
            group.create_task(writer.run(stop))
            await asyncio.sleep(86_400)
            stop.set()

        pauses = [after - before for before, after in pairwise(server.times)]
        assert 45 <= pauses[0] <= 75
        assert 95 <= len(server.times) <= 140  # 86,400 / 900 and a few quicker ones at first
        assert max(pauses) <= 901


@in_virtual_time
async def test_a_token_file_is_read_again_when_the_token_is_refused(
    rig: Rig, tmp_path: Path
) -> None:
    fill(rig, 5)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")

    async with FaultServer() as server:
        target = InfluxTarget(server.url, ORG, BUCKET, read_token=file.read_text)
        async with writing(server, rig, target=target) as writer:
            await writer.flush(wall())
            server.token = "rotated"
            file.write_text("rotated")
            rig.add(START, "m9", 1)
            result = await writer.flush(wall())

            assert (result.state, result.pending) == (State.OK, 0)
            assert server.store == rig.expected()


@in_virtual_time
async def test_a_token_file_that_cannot_be_read_is_the_error_shown(rig: Rig) -> None:
    fill(rig, 5)

    def read_token() -> str:
        raise SettingsError("INFLUXDB_TOKEN_FILE names x, which cannot be read", "make it readable")

    async with FaultServer() as server:
        target = InfluxTarget(server.url, ORG, BUCKET, read_token=read_token)
        async with writing(server, rig, target=target) as writer:
            result = await writer.flush(wall())

            assert str(result.error) == "INFLUXDB_TOKEN_FILE names x, which cannot be read"
            assert result.error is not None
            assert result.error.hint == "make it readable"
            assert (result.pending, result.state) == (5, State.MISCONFIGURED)
            assert server.request_sizes == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8086",
        "ftp://localhost",
        "http://",
        "http://[::1",
        "http://localhost:port",
        "http://user:hunter2@localhost:8086",
        "http://localhost:8086?token=hunter2",
    ],
)
def test_an_address_that_cannot_work_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="INFLUXDB_URL") as caught:
        InfluxTarget(url, ORG, BUCKET, read_token=lambda: "")

    assert "hunter2" not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8086/", "http://localhost:8086"),
        ("https://[::1]:8086/influx/", "https://[::1]:8086/influx"),
        ("https://influx.example.org", "https://influx.example.org"),
    ],
)
def test_one_server_is_registered_under_one_address(url: str, expected: str) -> None:
    assert safe_url(url) == expected


@in_virtual_time
async def test_a_servers_text_is_shown_short_clean_and_without_the_token(rig: Rig) -> None:
    fill(rig, 5)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.echoes_authorization = True
        server.decide = lambda: "500"
        with capture_logs() as logs:
            result = await writer.flush(wall())

        assert "answered 500 cannot: Token ***" in str(result.error)
        assert "\x1b" not in str(result.error)
        assert TOKEN not in json.dumps(logs) + repr(target_of(server))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"code":"invalid","message":"bad line"}', "bad line"),
        (b'{"error":"partial write: x"}', "partial write: x"),
        (b'{"message":5}', '{"message":5}'),
        (b"[1]", "[1]"),
        (b"<html>", "<html>"),
        (b"\xff", "\ufffd"),
        (b"", ""),
    ],
)
def test_the_message_is_found_in_each_generations_error_body(body: bytes, expected: str) -> None:
    assert server_text(body) == expected
