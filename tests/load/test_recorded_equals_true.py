"""Records of the load generator compared with the fake API, in each mode, where Locust's own are inexact."""

import pytest

from loadtest.generator.arrivals import due_times
from loadtest.options import RunOptions
from tests.load.fake_api import Behaviour
from tests.load.harness import MODES, LoadTest, fake_api, interrupt, unwrapped, wait_for, wait_for_line

every_mode = pytest.mark.parametrize("mode", MODES)


@every_mode
def test_fifty_orders_a_second_of_one_second(load_test: LoadTest, mode: str) -> None:
    with fake_api(Behaviour(completion_ms=1_000)) as api:
        found = load_test.run(
            api, "--scenario=start-only", "--rate=50", "--duration=6s", "--slo-target=0.9", mode=mode
        )
        truth = api.truth()["orders"]

    assert found.code == 0, found.output
    assert found.run["offered"] == found.run["planned"] == len(truth) == 300
    assert found.run["skipped"] == found.run["unaccounted"] == 0
    assert found.limit["late"] == 0
    stored = load_test.stored()
    assert stored is not None
    assert stored.completion_ms == [1_000] * 300
    # Fifty orders wait for their outcome at any time, each on its own connection.
    times = found.report["times"]
    assert 1_000 <= times["end_to_end_ms"]["p50"] < 3_000
    # The processes send each order of the schedule exactly once.
    assert {order_id.rpartition("-")[2] for order_id in truth} == {str(number) for number in range(300)}


@every_mode
def test_orders_of_15_4_seconds_and_lost_responses(load_test: LoadTest, mode: str) -> None:
    behaviour = Behaviour(
        completion_ms=300, slow_every=20, slow_ms=15_400, lose_response_every=7, fail_every=9
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
    assert sorted(stored.completion_ms or []) == truth
    assert found.report["times"]["completion_ms"]["max"] == 15_400
    # A start whose response was lost is retried with the same content: one order, two start requests.
    assert starts.count(2) == 8
    assert found.run["unaccounted"] == 0
    # Locust would round this to 15,000.
    rows = found.locust_rows
    assert rows["completion"]["100%"] == "15400"
    counts = [(row["Request Count"], row["Failure Count"]) for name, row in rows.items() if name != "start"]
    assert counts == [("60", "3")] * 2, "one entry for each order, one failure for each late order"


@every_mode
def test_a_stall_of_two_seconds_delays_the_orders_scheduled_in_it(load_test: LoadTest, mode: str) -> None:
    with fake_api(Behaviour(completion_ms=500, stall_at_seconds=2.0, stall_seconds=2.0)) as api:
        found = load_test.run(api, "--scenario=start-only", "--rate=50", "--duration=6s", mode=mode)

    stored = load_test.stored()
    assert stored is not None
    assert stored.statistics is not None
    offered = [row["offered"] for row in stored.statistics[:6]]
    # A closed loop would have sent almost nothing without responses.
    assert offered == [50] * 6
    assert found.run["unaccounted"] == 0
    # Orders scheduled at the start of the stall wait two seconds longer, those at its end do not.
    stalled = [row["end_to_end_p99"] for row in stored.statistics[2:4]]
    assert 2_250 <= max(stalled) < 5_000
    assert stored.statistics[0]["end_to_end_p99"] < 2_000
    assert 1_750 <= found.report["times"]["accept_ms"]["max"] < 4_500
    # Completion counts from acceptance and does not include the stall.
    assert found.report["times"]["completion_ms"]["max"] == 500


@every_mode
def test_ctrl_c_drains_before_the_verdict(load_test: LoadTest, mode: str) -> None:
    with fake_api(Behaviour(completion_ms=3_000)) as api:
        words = ("--scenario=start-only", "--rate=20", "--duration=60s")
        with load_test.started(api, *words, mode=mode) as process:
            wait_for(lambda: len(api.truth()["orders"]) >= 60)
            interrupt(process)
            found = load_test.finished(process)
        truth = api.truth()["orders"]

    assert found.code == 5, found.output
    assert "Stopping: orders in flight finish first, then the verdict follows." in unwrapped(found.output)
    assert 0 < found.run["offered"] == len(truth) < 1_200
    # Sixty orders were in flight at the stop; Locust would lose them.
    assert found.run["unaccounted"] == 0
    assert found.report["outcomes"] == {"completed": len(truth)}
    assert found.run["stopped_after_seconds"] is not None


def test_more_orders_in_flight_than_locusts_client_has_connections(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=5_000)) as api:
        found = load_test.run(api, "--scenario=start-only", "--rate=100", "--duration=4s", "--slo-target=0.9")

    # 400 long polls are open concurrently. With ten connections, orders would wait for a connection.
    assert found.report["times"]["accept_ms"]["p99"] < 5_000
    assert found.report["times"]["end_to_end_ms"]["p99"] < 12_000
    assert found.code == 0, found.output


def test_an_order_counts_as_late_as_soon_as_its_limit_has_passed(load_test: LoadTest) -> None:
    with fake_api(Behaviour(unfinished_every=1)) as api:
        words = (
            "--scenario=start-only",
            "--rate=10",
            "--duration=12s",
            "--slo-seconds=2",
            "--drain-seconds=1",
        )
        with load_test.started(api, *words) as process:
            line = wait_for_line(process, containing="sent")
            assert int(line.split(" of 120 sent")[0].split()[-1]) < 120, "while orders are still being sent"
            assert int(line.split(" late")[0].split()[-1]) > 0
            found = load_test.finished(process)

    assert found.code == 3
    assert found.limit["endings"] == {"unfinished": 120}
    assert found.limit["late"] == 120, "the drain is never shorter than the limit"
    rows = (found.directory / "orders.csv").read_text().splitlines()
    assert len(rows) == 1 + 120, "unfinished orders have rows too"


def test_the_drain_waits_until_the_limit_of_every_order_has_passed(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=1_500)) as api:
        words = ("--scenario=start-only", "--rate=10", "--duration=1s", "--slo-seconds=2")
        found = load_test.run(api, *words, "--drain-seconds=0")

    assert found.limit["endings"] == {"outcome": 10}
    assert found.limit["late"] == 0


def test_requests_are_counted_by_result(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=2_500)) as api:
        found = load_test.run(api, "--scenario=cancel-storm", "--rate=20", "--duration=10s")

    requests = found.report["requests"]
    # The cancellations spread over five seconds, of which an order takes half.
    assert requests["cancel: accepted"] + requests["cancel: too late"] == 200
    assert 70 <= requests["cancel: accepted"] <= 130
    assert found.report["outcomes"]["cancelled"] == requests["cancel: accepted"]
    rows = found.locust_rows
    assert int(rows["cancel, too late"]["Failure Count"]) == 0
    assert rows["Aggregated"]["Request Count"] == rows["completion"]["Request Count"] == "200"
    assert "status" not in rows, "a long poll is no request of a customer"


def test_address_churn_with_poisson_arrivals_during_a_review_desk_run(load_test: LoadTest) -> None:
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
    requests = churn.report["requests"]
    assert requests["address: accepted"] == sum(each["update-address"] for each in changed if each)
    assert len(changed) <= requests["address: accepted"] + requests["address: too late"] <= 3 * len(changed)
    assert max(each.get("update-address", 0) for each in changed) > 1

    requests, outcomes = desk.report["requests"], desk.report["outcomes"]
    assert outcomes["completed"] == requests["approve: accepted"] > requests["reject: accepted"] > 0
    forgotten = 40 - requests["approve: accepted"] - requests["reject: accepted"]
    assert outcomes["cancelled"] == requests["reject: accepted"] + forgotten
    assert forgotten > 0


def test_a_closed_loop_waits_for_the_outcome_of_each_order(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=1_000)) as api:
        words = ("--scenario=start-only", "--arrivals=closed", "--users=5", "--rate=50", "--duration=5s")
        found = load_test.run(api, *words)

    assert 15 <= found.run["offered"] <= 30, "five users with one order per second each"
    assert found.run["unaccounted"] == 0
