"""What the generator records against what the fake API knows, in each mode; every trap of Locust is here."""

import time

import pytest

from loadtest.generator.arrivals import due_times
from loadtest.options import RunOptions
from tests.load.driving import MODES, LoadTest, fake_api, interrupt, wait_for, wait_for_line
from tests.load.fake_api import Behaviour

every_mode = pytest.mark.parametrize("mode", MODES)


@every_mode
def test_fifty_orders_a_second_of_one_second(load_test: LoadTest, mode: str) -> None:
    with fake_api(Behaviour(completion_ms=1_000)) as api:
        found = load_test.run(api, "--scenario=start-only", "--rate=50", "--duration=6s", mode=mode)
        truth = api.truth()["orders"]

    assert found.code == 0, found.output
    assert found.run["offered"] == found.run["planned"] == len(truth) == 300
    assert found.run["skipped"] == found.run["unaccounted"] == 0
    assert found.limit["late"] == 0
    stored = load_test.stored()
    assert stored is not None
    assert stored.completion_ms == [1_000] * 300
    # Fifty orders wait for their outcome at any time, and none of them for another's connection.
    times = found.told["times"]
    assert 1_000 <= times["end_to_end_ms"]["p50"] < 1_100
    assert times["accept_ms"]["p50"] < 100
    # The rate is shared out exactly: each order of the schedule, once.
    assert {order_id.rpartition("-")[2] for order_id in truth} == {str(number) for number in range(300)}


@every_mode
def test_orders_of_15_4_seconds_and_lost_answers(load_test: LoadTest, mode: str) -> None:
    behaviour = Behaviour(
        completion_ms=300, slow_every=20, slow_ms=15_400, lose_answer_every=7, refuse_every=9
    )
    with fake_api(behaviour) as api:
        found = load_test.run(api, "--scenario=start-only", "--rate=20", "--duration=3s", mode=mode)
        truth = api.true_completion_ms()
        starts = [order["starts"] for order in api.truth()["orders"].values()]

    assert found.code == 3, found.output
    assert found.limit["orders"] == 60
    assert found.limit["late"] == sum(each > 15_000 for each in truth) == 3
    stored = load_test.stored()
    assert stored is not None
    assert stored.completion_ms == truth
    assert found.told["times"]["completion_ms"]["max"] == 15_400
    # A lost answer is asked for again, with the same content: one order, accepted twice.
    assert starts.count(2) == 8
    assert found.run["unaccounted"] == 0
    # Locust alone would round this to 15,000.
    assert found.locust_rows["completion"]["100%"] == "15400"


@every_mode
def test_a_stall_of_two_seconds_shows_in_the_orders_behind_it(load_test: LoadTest, mode: str) -> None:
    with fake_api(Behaviour(completion_ms=500, stall_at_seconds=2.0, stall_seconds=2.0)) as api:
        found = load_test.run(api, "--scenario=start-only", "--rate=50", "--duration=6s", mode=mode)

    stored = load_test.stored()
    assert stored is not None
    assert stored.statistics is not None
    offered = [row["offered"] for row in stored.statistics[:6]]
    # A closed loop would have sent next to nothing while nothing was answered.
    assert offered == [50] * 6
    assert found.run["unaccounted"] == 0
    # Orders due at the begin of the stall wait two seconds more, those at its end none.
    stalled = [row["end_to_end_p99"] for row in stored.statistics[2:4]]
    assert max(stalled) == pytest.approx(2_500, abs=250)
    assert stored.statistics[0]["end_to_end_p99"] < 800
    assert found.told["times"]["accept_ms"]["max"] == pytest.approx(2_000, abs=250)
    # The books know nothing of the wait before acceptance.
    assert found.told["times"]["completion_ms"]["max"] == 500


@every_mode
def test_ctrl_c_drains_then_judges(load_test: LoadTest, mode: str) -> None:
    with fake_api(Behaviour(completion_ms=3_000)) as api:
        words = ("--scenario=start-only", "--rate=20", "--duration=60s")
        with load_test.started(api, *words, mode=mode) as process:
            wait_for(lambda: len(api.truth()["orders"]) >= 60)
            interrupt(process)
            found = load_test.finished(process)
        truth = api.truth()["orders"]

    assert found.code == 5, found.output
    assert 0 < found.run["offered"] == len(truth) < 1_200
    # Sixty orders were in flight at the stop; Locust alone forgets them.
    assert found.run["unaccounted"] == 0
    assert found.told["outcomes"] == {"completed": len(truth)}
    assert found.run["stopped_after_seconds"] is not None


def test_more_orders_in_flight_than_locusts_client_has_connections(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=5_000)) as api:
        found = load_test.run(api, "--scenario=start-only", "--rate=100", "--duration=4s")

    # Four hundred held answers at once; ten connections would make orders wait for each other.
    assert found.told["times"]["accept_ms"]["p99"] < 500
    assert found.told["times"]["end_to_end_ms"]["p99"] < 5_600
    assert found.code == 0, found.output


def test_an_order_past_the_limit_is_late_at_once(load_test: LoadTest) -> None:
    with fake_api(Behaviour(never_every=1)) as api:
        words = (
            "--scenario=start-only",
            "--rate=10",
            "--duration=12s",
            "--slo-seconds=2",
            "--drain-seconds=1",
        )
        began = time.monotonic()
        with load_test.started(api, *words) as process:
            line = wait_for_line(process, containing="sent")
            assert time.monotonic() - began < 12, "while orders are still being sent"
            assert int(line.split(" late")[0].split()[-1]) > 0
            found = load_test.finished(process)

    assert found.code == 3
    assert found.limit["endings"] == {"unfinished": 120}
    assert found.limit["late"] == 120, "the drain is never shorter than the limit"
    rows = (found.directory / "orders.csv").read_text().splitlines()
    assert len(rows) == 1 + 120, "also of orders that have not finished"


def test_an_order_that_is_younger_than_the_limit_is_waited_for(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=1_500)) as api:
        words = ("--scenario=start-only", "--rate=10", "--duration=1s", "--slo-seconds=2")
        found = load_test.run(api, *words, "--drain-seconds=0")

    assert found.limit["endings"] == {"outcome": 10}
    assert found.limit["late"] == 0


def test_each_request_is_told_apart(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=2_500)) as api:
        found = load_test.run(api, "--scenario=cancel-storm", "--rate=20", "--duration=10s")

    requests = found.told["requests"]
    # At first cancelled within five seconds, of which the order lives the first half; then it is known.
    assert requests["cancel: accepted"] + requests["cancel: too late"] == 200
    assert 120 <= requests["cancel: accepted"] <= 180
    assert found.told["outcomes"]["cancelled"] == requests["cancel: accepted"]
    rows = found.locust_rows
    assert int(rows["cancel, too late"]["Failure Count"]) == 0
    assert {"accept", "completion", "end to end"} <= rows.keys()


def test_poisson_arrivals_of_changing_addresses_beside_a_review_desk(load_test: LoadTest) -> None:
    common = ("--rate=20", "--duration=2s", "--slo-target=0.5")
    with fake_api(Behaviour(completion_ms=1_500)) as api:
        churn_words = ("--scenario=address-churn", "--arrivals=poisson", "--seed=3", *common)
        with load_test.started(api, *churn_words, run_id="churn") as process:
            desk = load_test.run(api, "--scenario=review-desk", *common, run_id="desk")
            churn = load_test.finished(process, "churn")
        truth = api.truth()["orders"]

    assert (churn.code, desk.code) == (0, 0), churn.output + desk.output
    changed = [order["requests"] for order_id, order in truth.items() if order_id.startswith("churn-")]
    planned = RunOptions.parse({"rate": 20, "duration": "2s", "arrivals": "poisson", "seed": 3})
    assert churn.run["offered"] == churn.run["planned"] == len(list(due_times(planned))) == len(changed)
    requests = churn.told["requests"]
    assert requests["address: accepted"] == sum(each["update-address"] for each in changed if each)
    assert len(changed) <= requests["address: accepted"] + requests["address: too late"] <= 3 * len(changed)
    assert max(each.get("update-address", 0) for each in changed) > 1

    requests, outcomes = desk.told["requests"], desk.told["outcomes"]
    assert outcomes["completed"] == requests["approve: accepted"] > requests["reject: accepted"] > 0
    forgotten = 40 - requests["approve: accepted"] - requests["reject: accepted"]
    assert outcomes["cancelled"] == requests["reject: accepted"] + forgotten
    assert forgotten > 0


def test_a_closed_loop_waits_for_its_orders(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=1_000)) as api:
        words = ("--scenario=start-only", "--arrivals=closed", "--users=5", "--rate=50", "--duration=5s")
        found = load_test.run(api, *words)

    assert 15 <= found.run["offered"] <= 30, "five users, an order a second each"
    assert found.run["unaccounted"] == 0
