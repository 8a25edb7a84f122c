"""With keys, Temporal never gets to see an address: not in any history, list, failure or heartbeat."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from temporalio.client import Client, WorkflowHandle

from db import api_keys as stored_keys
from db.database import Database
from db.domain import Address, Reason, ReviewMode, State
from db.orders import OrderRepository
from orchestrator.embedded.layout import PROJECT_ROOT, packaged_program, stack_environment
from orchestrator.errors import GatewayError
from orchestrator.gateways.fault_injection import ProfileFaultInjector, named_profile
from orchestrator.gateways.simulated import SimulatedCarrier, simulated_gateways
from orchestrator.messages import ApproveOrder, OrderResult, RequestResult, UpdateAddress
from orchestrator.security.key_hashing import hash_key, new_key
from orchestrator.settings import Settings
from orchestrator.temporal_client import connect
from orchestrator.worker.activity_set import ActivitySet
from orchestrator.worker.factory import order_worker, shipping_worker
from orchestrator.workflow_ids import shipping_workflow_id
from orchestrator.workflows.order import OrderWorkflow
from tests.live import eventually
from tests.shop import Shop
from tests.temporal_server import temporal_server

MARKED = Address("77 Zanzibar Street", "Zanzibar", "MK", "99077")
MOVED = Address("78 Zanzibar Street", "Zanzibar", "MK", "99078")
MARK = "zanzibar"
"""In whatever these orders carry, and no word of Temporal's."""

Handle = WorkflowHandle[OrderWorkflow, OrderResult]


def key(name: str) -> str:
    return f"{name}:{base64.b64encode(os.urandom(32)).decode()}"


@pytest.fixture(scope="module")
def servers(order_database_url: str) -> Iterator[Settings]:
    with temporal_server() as settings:
        yield settings.model_copy(update={"database_url": order_database_url, "payload_keys": key("first")})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(servers: Settings) -> Client:
    return await connect(servers)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def plain_client(servers: Settings) -> Client:
    return await connect(servers.model_copy(update={"payload_keys": None}))


@asynccontextmanager
async def staffed(
    client: Client, pool: Database, name: str, carrier: SimulatedCarrier | None = None
) -> AsyncIterator[Shop]:
    """Workers on the queues of this name; orders of the shop have it before theirs."""
    gateways = simulated_gateways(pool)
    gateways = replace(gateways, carrier=carrier or gateways.carrier)
    activities = ActivitySet.create(
        OrderRepository(pool, name), ProfileFaultInjector(named_profile("none")), gateways
    )
    shop = Shop(name, client, pool, f"{name}-orders", f"{name}-shipping")
    async with (
        order_worker(client, shop.order_queue, activities),
        shipping_worker(client, shop.shipping_queue, activities),
    ):
        yield shop


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shop(client: Client, pool: Database) -> AsyncIterator[Shop]:
    async with staffed(client, pool, "private") as shop:
        yield shop


@pytest.fixture(scope="module")
def api(servers: Settings) -> Iterator[httpx.Client]:
    """A real API process with the key."""
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.processes", "api"],
        cwd=PROJECT_ROOT,
        env=stack_environment(servers),
        stdout=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=servers.api_url, trust_env=False) as http:
            eventually(lambda: answers(http))
            yield http
    finally:
        process.terminate()
        process.wait()


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/openapi.json").status_code == 200
    except httpx.TransportError:
        return False


def payloads_in(value: Any) -> list[dict[str, Any]]:
    """Every payload of a message as JSON, however deep."""
    if isinstance(value, list):
        return [payload for each in value for payload in payloads_in(each)]
    if not isinstance(value, dict):
        return []
    if "metadata" in value and "encoding" in value["metadata"]:
        return [value]
    return [payload for each in value.values() for payload in payloads_in(each)]


def readable(message: dict[str, Any]) -> str:
    """All that somebody can read who decodes base64 wherever it stands."""
    hidden = [base64.b64decode(payload.get("data", "")) for payload in payloads_in(message)]
    return "\n".join([json.dumps(message), *(data.decode("utf-8", "replace") for data in hidden)]).lower()


async def raw(client: Client, workflow_id: str) -> dict[str, Any]:
    """Everything that Temporal tells of a workflow: its history, and its description with the memo."""
    handle = client.get_workflow_handle(workflow_id)
    history = await handle.fetch_history()
    description = await handle.describe()
    return {
        "history": [MessageToDict(event) for event in history.events],
        "description": MessageToDict(description.raw_description),
    }


async def assert_private(client: Client, workflow_id: str) -> list[dict[str, Any]]:
    """The mark is nowhere; returns the payloads."""
    told = await raw(client, workflow_id)
    assert MARK not in readable(told)
    return payloads_in(told)


async def placed(shop: Shop, name: str, **changes: Any) -> Handle:
    return await shop.place(shop.order(name, initial_address=MARKED, **changes))


async def test_an_address_is_nowhere_in_what_temporal_holds(shop: Shop, client: Client) -> None:
    handle = await placed(shop, "whole", review=ReviewMode.MANUAL)
    moved = UpdateAddress(MOVED, "the customer of Zanzibar")
    assert (await handle.execute_update("update_address", moved, result_type=RequestResult)).accepted
    await handle.signal("ApproveOrder", ApproveOrder("Zanzibar reviewer"))
    assert (await handle.result()).outcome is State.COMPLETED
    found = await assert_private(client, handle.id)
    found += await assert_private(client, shipping_workflow_id(handle.id.removeprefix("order-"), 1))
    assert {"binary/encrypted"} == {
        base64.b64decode(payload["metadata"]["encoding"]).decode()
        for payload in found
        # Plain stay what the SDK notes of a local activity (its type, its id, its time), and what the
        # server itself makes searchable, which has a type.
        if b"activity_type" not in base64.b64decode(payload["data"]) and "type" not in payload["metadata"]
    }
    row = await shop.row(handle.id.removeprefix("order-"))
    assert row is not None
    assert MOVED.street in str(row["address"])


async def test_without_keys_the_same_address_would_be_found(plain_client: Client, pool: Database) -> None:
    async with staffed(plain_client, pool, "open") as shop:
        handle = await placed(shop, "open")
        await handle.result()
    assert "77 zanzibar street" in readable(await raw(plain_client, handle.id))


class TalkativeCarrier(SimulatedCarrier):
    """Speaks of the address in its errors: first one that fails the local activity, then many that are
    told in heartbeats, then those that fail the regular one."""

    def __init__(self, repository: Database) -> None:
        super().__init__(repository)
        self._calls = 0

    async def check_address(self, address: Address) -> None:
        self._calls += 1
        if self._calls == 1 or self._calls > 12:
            raise ValueError(f"{address.street} is no street")
        raise GatewayError(f"{address.street} cannot be found")


async def test_heartbeats_and_failures_are_private_too(client: Client, pool: Database) -> None:
    async with staffed(client, pool, "failing", TalkativeCarrier(pool)) as shop:
        handle = await placed(shop, "failing", limit_seconds=12.0)
        async with asyncio.timeout(15):
            while True:
                pending = (await handle.describe()).raw_description.pending_activities
                if pending and pending[0].HasField("last_failure"):
                    break
                await asyncio.sleep(0.02)
        _, told = await client.data_converter.decode(pending[0].heartbeat_details.payloads)
        assert told == "77 Zanzibar Street cannot be found"
        failure = await client.data_converter.decode_failure(pending[0].last_failure)
        assert "77 Zanzibar Street is no street" in str(failure)
        await assert_private(client, handle.id)
        assert (await handle.result()).reason is Reason.DEADLINE
        await assert_private(client, handle.id)


async def test_orders_that_began_unencrypted_finish_encrypted(
    plain_client: Client, client: Client, pool: Database
) -> None:
    async with staffed(plain_client, pool, "switch") as shop:
        handle = await placed(shop, "order", review=ReviewMode.MANUAL)
        await handle.execute_update("update_address", UpdateAddress(MOVED, "somebody"))
    async with staffed(client, pool, "switch"):
        same = client.get_workflow_handle_for(OrderWorkflow.run, handle.id)
        approved = await same.execute_update(
            "approve_order", ApproveOrder("somebody"), result_type=RequestResult
        )
        assert approved.accepted
        assert (await same.result()).outcome is State.COMPLETED


async def test_an_order_waits_for_a_worker_that_has_its_key(
    plain_client: Client, client: Client, pool: Database
) -> None:
    async with staffed(plain_client, pool, "waiting") as shop:
        handle = await Shop(shop.run_id, client, pool, shop.order_queue, shop.shipping_queue).place(
            shop.order("order", initial_address=MARKED)
        )
        async with asyncio.timeout(15):
            while True:
                if failed := await task_failures(client, handle):
                    break
                await asyncio.sleep(0.05)
    assert "encrypted with key 'first', which PAYLOAD_KEYS lacks here" in failed[0]
    async with staffed(client, pool, "waiting"):
        assert (await handle.result()).outcome is State.COMPLETED


async def task_failures(client: Client, handle: Handle) -> list[str]:
    """Why workflow tasks failed, as whoever reads the history is told."""
    history = await handle.fetch_history()
    return [
        event.workflow_task_failed_event_attributes.failure.message
        for event in history.events
        if event.HasField("workflow_task_failed_event_attributes")
    ]


async def test_temporals_own_command_line_can_still_signal_in_plain_json(
    servers: Settings, shop: Shop
) -> None:
    handle = await placed(shop, "signalled", review=ReviewMode.MANUAL)
    request = json.dumps({"reason": "not needed", "cancelled_by": "cli"})
    await temporal(servers, "signal", "-w", handle.id, "--name", "CancelOrder", "--input", request)
    assert (await handle.result()).reason is Reason.CUSTOMER_CANCELLED


# --- The endpoint --------------------------------------------------------------------------------------


async def test_temporals_command_line_shows_addresses_through_the_endpoint(
    servers: Settings, shop: Shop, api: httpx.Client
) -> None:
    handle = await placed(shop, "shown")
    await handle.result()
    words = ("show", "-w", handle.id, "--output", "json")
    assert MARKED.street not in await temporal(servers, *words)
    shown = await temporal(servers, *words, "--codec-endpoint", f"{servers.api_url}/codec")
    assert "77 zanzibar street" in readable(json.loads(shown))


async def test_a_signal_of_the_command_line_is_encrypted_through_the_endpoint(
    servers: Settings, shop: Shop, client: Client, api: httpx.Client
) -> None:
    handle = await placed(shop, "sealed", review=ReviewMode.MANUAL)
    request = json.dumps({"reason": "moving from Zanzibar", "cancelled_by": "cli"})
    words = ("signal", "-w", handle.id, "--name", "CancelOrder", "--input", request)
    await temporal(servers, *words, "--codec-endpoint", f"{servers.api_url}/codec")
    assert (await handle.result()).reason is Reason.CUSTOMER_CANCELLED
    await assert_private(client, handle.id)


async def temporal(servers: Settings, *words: str) -> str:
    """What `temporal workflow ...` prints."""
    process = await asyncio.create_subprocess_exec(
        packaged_program("temporal"),
        "workflow",
        *words,
        *("--address", servers.temporal_target),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return out.decode()


PLAIN = {"metadata": {"encoding": base64.b64encode(b"json/plain").decode()}, "data": "IngiCg=="}


def test_what_is_not_encrypted_comes_back_as_it_is(api: httpx.Client) -> None:
    answer = api.post("/codec/decode", json={"payloads": [PLAIN]})
    assert (answer.status_code, answer.json()) == (200, {"payloads": [PLAIN]})


def test_a_payload_of_an_unknown_key_is_refused_with_its_name(api: httpx.Client) -> None:
    sealed = api.post("/codec/encode", json={"payloads": [PLAIN]}).json()["payloads"][0]
    assert api.post("/codec/decode", json={"payloads": [sealed]}).json() == {"payloads": [PLAIN]}
    sealed["metadata"]["encryption-key-id"] = base64.b64encode(b"lost").decode()
    answer = api.post("/codec/decode", json={"payloads": [sealed]})
    assert answer.status_code == 422
    assert "encrypted with key 'lost'" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"payloads": "x"},
        {"payloads": [{"data": "not base64"}]},
        {"payloads": [{"metadata": {"encoding": "ä"}}]},
        {"payloads": [PLAIN] * 1_001},
    ],
)
def test_a_malformed_request_is_refused(api: httpx.Client, body: Any) -> None:
    answer = api.post("/codec/decode", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_pages_of_the_ui_may_ask(api: httpx.Client, servers: Settings, host: str) -> None:
    origin = f"http://{host}:{servers.port('temporal_ui')}"
    asking = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-namespace",
    }
    may = api.options("/codec/decode", headers=asking)
    assert (may.status_code, may.headers["access-control-allow-origin"]) == (200, origin)
    answer = api.post("/codec/decode", json={"payloads": [PLAIN]}, headers={"Origin": origin})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_pages_of_others_may_not(api: httpx.Client, origin: str) -> None:
    for ask in (api.options, api.post):
        answer = ask("/codec/decode", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_a_payload_that_is_larger_than_an_order_may_be_is_decrypted(api: httpx.Client) -> None:
    large = PLAIN | {"data": base64.b64encode(b"x" * 60_000).decode()}
    sealed = api.post("/codec/encode", json={"payloads": [large]}).json()
    assert api.post("/codec/decode", json=sealed).json() == {"payloads": [large]}
    too_large = PLAIN | {"data": "A" * 1024 * 1024}
    assert api.post("/codec/decode", json={"payloads": [too_large]}).status_code == 413


# --- With keys: the last tests, since the API stays closed then ---------------------------------------


@pytest.fixture(scope="module")
def keys_by_role(order_database_url: str, api: httpx.Client) -> dict[str, str]:
    made = {role: new_key() for role in ("viewer", "operator")}
    for role, text in made.items():
        assert stored_keys.add(order_database_url, hash_key(text), role, role)
    eventually(lambda: api.get("/whoami").status_code == 401)
    return made


async def test_the_command_line_brings_a_key_once_there_are_keys(
    servers: Settings, shop: Shop, keys_by_role: dict[str, str]
) -> None:
    handle = await placed(shop, "closed")
    await handle.result()
    words = ("show", "-w", handle.id, "--output", "json", "--codec-endpoint", f"{servers.api_url}/codec")
    shown = await temporal(servers, *words, "--codec-auth", f"Bearer {keys_by_role['operator']}")
    assert "77 zanzibar street" in readable(json.loads(shown))
    for auth in ((), ("--codec-auth", f"Bearer {keys_by_role['viewer']}")):
        # It asks again and again, and never tells what it is answered.
        with pytest.raises(AssertionError, match="Error: "):
            await temporal(servers, *words, *auth, "--command-timeout", "1s")


def test_a_key_given_once_counts_for_the_pages_of_temporals_ui(
    servers: Settings, api: httpx.Client, keys_by_role: dict[str, str]
) -> None:
    assert "<form" in api.get("/codec/login").text
    for text, status in ((new_key(), 401), ("", 401), ("\u00e9", 401), (keys_by_role["viewer"], 403)):
        refused = api.post("/codec/login", data={"key": text})
        assert (refused.status_code, "set-cookie" in refused.headers) == (status, False)
    elsewhere = api.post(
        "/codec/login", data={"key": keys_by_role["operator"]}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert (elsewhere.status_code, "set-cookie" in elsewhere.headers) == (403, False)

    given = api.post("/codec/login", data={"key": keys_by_role["operator"]})
    assert given.status_code == 200
    told = given.headers["set-cookie"]
    assert all(word in told for word in ("HttpOnly", "Path=/codec", "SameSite=strict"))
    assert keys_by_role["operator"] not in told + given.text
    cookie = {"Cookie": told.split(";")[0]}
    api.cookies.clear()

    def decoded(**headers: str) -> int:
        return api.post("/codec/decode", json={"payloads": [PLAIN]}, headers=headers).status_code

    for origin in servers.temporal_ui_origins:
        assert decoded(**cookie, Origin=origin) == 200
        assert decoded(Origin=origin) == 401
    assert decoded(**cookie) == 401, "no page asks"
    assert decoded(**cookie, Origin=servers.api_url) == 403
    ui = {"Origin": servers.temporal_ui_origins[0]}
    assert api.get("/orders", headers=cookie | ui).status_code == 401, "the codec alone"
    assert stored_keys.revoke(servers.order_database_url, "operator")
    eventually(lambda: decoded(**cookie, **ui) == 401)
