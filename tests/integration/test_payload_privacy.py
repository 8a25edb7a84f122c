"""Payload encryption: no address in Temporal's histories, lists, failures and heartbeats."""

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

from db import api_keys
from db.database import Database
from db.domain import Address, Reason, RequestResult, ReviewMode, State
from db.orders import OrderRepository
from orchestrator.embedded.layout import PROJECT_ROOT, stack_environment
from orchestrator.errors import GatewayError
from orchestrator.gateways.fault_injection import FaultInjector, named_profile
from orchestrator.gateways.simulated import SimulatedCarrier
from orchestrator.messages.ids import shipping_workflow_id
from orchestrator.messages.orders import OrderResult
from orchestrator.messages.requests import ApproveOrder, UpdateAddress
from orchestrator.security.key_hashing import hash_key, new_key
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect
from orchestrator.worker.factory import ActivitySet, compensation_worker, order_worker, shipping_worker
from orchestrator.workflows.order import OrderWorkflow
from tests.live import eventually
from tests.orders import TEMPORAL
from tests.shop import Shop, simulated_gateways
from tests.temporal_server import temporal_server, temporal_workflow

MARKED = Address("77 Zanzibar Street", "Zanzibar", "MK", "99077")
MOVED = Address("78 Zanzibar Street", "Zanzibar", "MK", "99078")
MARK = "zanzibar"
"""A word in the data of every test order that Temporal does not use itself."""

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
async def running_workers(
    client: Client, pool: Database, name: str, carrier: SimulatedCarrier | None = None
) -> AsyncIterator[Shop]:
    """Run workers on task queues with this name, which is also the prefix of the order ids."""
    gateways = simulated_gateways(pool)
    gateways = replace(gateways, carrier=carrier or gateways.carrier)
    activities = ActivitySet.create(
        OrderRepository(pool, name, TEMPORAL), FaultInjector(named_profile("none")), gateways
    )
    shop = Shop(name, client, pool, f"{name}-orders", f"{name}-shipping")
    async with (
        order_worker(client, shop.order_queue, activities),
        compensation_worker(client, shop.order_queue, activities),
        shipping_worker(client, shop.shipping_queue, activities),
    ):
        yield shop


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shop(client: Client, pool: Database) -> AsyncIterator[Shop]:
    async with running_workers(client, pool, "private") as shop:
        yield shop


@pytest.fixture(scope="module")
def api(servers: Settings) -> Iterator[httpx.Client]:
    """An API process with the payload key."""
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.processes", "api"],
        cwd=PROJECT_ROOT,
        env=stack_environment(servers),
    )
    try:
        with httpx.Client(base_url=servers.api_url, trust_env=False) as http:
            eventually(lambda: responds(http))
            yield http
    finally:
        process.terminate()
        process.wait()


def responds(http: httpx.Client) -> bool:
    try:
        return http.get("/openapi.json").status_code == 200
    except httpx.TransportError:
        return False


def payloads_in(value: Any) -> list[dict[str, Any]]:
    """Return all payloads of a JSON message, at any depth."""
    if isinstance(value, list):
        return [payload for each in value for payload in payloads_in(each)]
    if not isinstance(value, dict):
        return []
    if "metadata" in value and "encoding" in value["metadata"]:
        return [value]
    return [payload for each in value.values() for payload in payloads_in(each)]


def readable(message: dict[str, Any]) -> str:
    """Return the text of a message with every payload decoded from base64."""
    decoded = [base64.b64decode(payload.get("data", "")) for payload in payloads_in(message)]
    return "\n".join([json.dumps(message), *(data.decode("utf-8", "replace") for data in decoded)]).lower()


async def raw(client: Client, workflow_id: str) -> dict[str, Any]:
    """Return the history of a workflow, and its description with the memo."""
    handle = client.get_workflow_handle(workflow_id)
    history = await handle.fetch_history()
    description = await handle.describe()
    return {
        "history": [MessageToDict(event) for event in history.events],
        "description": MessageToDict(description.raw_description),
    }


async def assert_private(client: Client, workflow_id: str) -> list[dict[str, Any]]:
    """Assert that the workflow does not contain the mark. Returns its payloads."""
    workflow = await raw(client, workflow_id)
    assert MARK not in readable(workflow)
    return payloads_in(workflow)


async def start_order(shop: Shop, name: str, **changes: Any) -> Handle:
    return await shop.place(shop.order(name, initial_address=MARKED, **changes))


async def test_no_address_is_in_temporal(shop: Shop, client: Client) -> None:
    handle = await start_order(shop, "whole", review=ReviewMode.MANUAL)
    moved = UpdateAddress(MOVED, "the customer of Zanzibar")
    assert (await handle.execute_update("update_address", moved, result_type=RequestResult)).accepted
    await handle.signal("ApproveOrder", ApproveOrder("Zanzibar reviewer"))
    assert (await handle.result()).outcome is State.COMPLETED
    found = await assert_private(client, handle.id)
    found += await assert_private(client, shipping_workflow_id(handle.id.removeprefix("order-"), 1))
    assert {"binary/encrypted"} == {
        base64.b64decode(payload["metadata"]["encoding"]).decode()
        for payload in found
        # Not encrypted: the SDK's record of a local activity (its type, id and time), and search attributes,
        # which have a type.
        if b"activity_type" not in base64.b64decode(payload["data"]) and "type" not in payload["metadata"]
    }
    row = await shop.row(handle.id.removeprefix("order-"))
    assert row is not None
    assert MOVED.street in str(row["address"])


async def test_without_keys_the_address_is_in_temporal(plain_client: Client, pool: Database) -> None:
    async with running_workers(plain_client, pool, "open") as shop:
        handle = await start_order(shop, "open")
        await handle.result()
    assert "77 zanzibar street" in readable(await raw(plain_client, handle.id))


class LeakyCarrier(SimulatedCarrier):
    """Raises errors that contain the address: one that fails the local activity, then several that are
    reported in heartbeats, then those that fail the regular activity."""

    def __init__(self, repository: Database) -> None:
        super().__init__(repository)
        self._calls = 0

    async def check_address(self, order_id: str, address: Address) -> None:
        self._calls += 1
        if self._calls == 1 or self._calls > 12:
            raise ValueError(f"{address.street} is no street")
        raise GatewayError(f"{address.street} cannot be found")


async def test_heartbeats_and_failures_are_encrypted(client: Client, pool: Database) -> None:
    async with running_workers(client, pool, "failing", LeakyCarrier(pool)) as shop:
        handle = await start_order(shop, "failing", limit_seconds=12.0)
        async with asyncio.timeout(60):
            while True:
                pending = (await handle.describe()).raw_description.pending_activities
                if pending and pending[0].HasField("last_failure"):
                    break
                await asyncio.sleep(0.02)
        _, message = await client.data_converter.decode(pending[0].heartbeat_details.payloads)
        assert message == "77 Zanzibar Street cannot be found"
        failure = await client.data_converter.decode_failure(pending[0].last_failure)
        assert "77 Zanzibar Street is no street" in str(failure)
        await assert_private(client, handle.id)
        assert (await handle.result()).reason is Reason.DEADLINE
        await assert_private(client, handle.id)


async def test_orders_that_started_unencrypted_finish_encrypted(
    plain_client: Client, client: Client, pool: Database
) -> None:
    async with running_workers(plain_client, pool, "switch") as shop:
        handle = await start_order(shop, "order", review=ReviewMode.MANUAL)
        await handle.execute_update("update_address", UpdateAddress(MOVED, "a reviewer"))
    async with running_workers(client, pool, "switch"):
        same = client.get_workflow_handle_for(OrderWorkflow.run, handle.id)
        approved = await same.execute_update(
            "approve_order", ApproveOrder("a reviewer"), result_type=RequestResult
        )
        assert approved.accepted
        assert (await same.result()).outcome is State.COMPLETED


async def test_an_order_waits_for_a_worker_with_its_key(
    plain_client: Client, client: Client, pool: Database
) -> None:
    async with running_workers(plain_client, pool, "waiting") as shop:
        handle = await Shop(shop.run_id, client, pool, shop.order_queue, shop.shipping_queue).place(
            shop.order("order", initial_address=MARKED)
        )
        async with asyncio.timeout(60):
            while True:
                if failed := await task_failures(client, handle):
                    break
                await asyncio.sleep(0.05)
    assert "encrypted with key 'first', which is not in PAYLOAD_KEYS" in failed[0]
    async with running_workers(client, pool, "waiting"):
        assert (await handle.result()).outcome is State.COMPLETED


async def task_failures(client: Client, handle: Handle) -> list[str]:
    """Return the messages of failed workflow tasks in the history."""
    history = await handle.fetch_history()
    return [
        event.workflow_task_failed_event_attributes.failure.message
        for event in history.events
        if event.HasField("workflow_task_failed_event_attributes")
    ]


async def test_temporals_command_line_can_send_signals_as_plain_json(servers: Settings, shop: Shop) -> None:
    handle = await start_order(shop, "signalled", review=ReviewMode.MANUAL)
    request = json.dumps({"reason": "not needed", "cancelled_by": "cli"})
    await temporal(servers, "signal", "-w", handle.id, "--name", "CancelOrder", "--input", request)
    assert (await handle.result()).reason is Reason.CUSTOMER_CANCELLED


# --- The codec endpoint ---


async def test_temporals_command_line_shows_addresses_through_the_codec(
    servers: Settings, shop: Shop, api: httpx.Client
) -> None:
    handle = await start_order(shop, "shown")
    await handle.result()
    words = ("show", "-w", handle.id, "--output", "json")
    assert MARKED.street not in await temporal(servers, *words)
    shown = await temporal(servers, *words, "--codec-endpoint", f"{servers.api_url}/codec")
    assert "77 zanzibar street" in readable(json.loads(shown))


async def test_a_signal_of_the_command_line_is_encrypted_through_the_codec(
    servers: Settings, shop: Shop, client: Client, api: httpx.Client
) -> None:
    handle = await start_order(shop, "encrypted", review=ReviewMode.MANUAL)
    request = json.dumps({"reason": "moving from Zanzibar", "cancelled_by": "cli"})
    words = ("signal", "-w", handle.id, "--name", "CancelOrder", "--input", request)
    await temporal(servers, *words, "--codec-endpoint", f"{servers.api_url}/codec")
    assert (await handle.result()).reason is Reason.CUSTOMER_CANCELLED
    await assert_private(client, handle.id)


async def temporal(servers: Settings, *arguments: str) -> str:
    return await temporal_workflow(servers.temporal_target, *arguments)


PLAIN = {"metadata": {"encoding": base64.b64encode(b"json/plain").decode()}, "data": "IngiCg=="}


def test_the_codec_returns_unencrypted_payloads_unchanged(api: httpx.Client) -> None:
    response = api.post("/codec/decode", json={"payloads": [PLAIN]})
    assert (response.status_code, response.json()) == (200, {"payloads": [PLAIN]})


def test_a_payload_with_an_unknown_key_is_422_with_the_name_of_the_key(api: httpx.Client) -> None:
    encrypted = api.post("/codec/encode", json={"payloads": [PLAIN]}).json()["payloads"][0]
    assert api.post("/codec/decode", json={"payloads": [encrypted]}).json() == {"payloads": [PLAIN]}
    encrypted["metadata"]["encryption-key-id"] = base64.b64encode(b"lost").decode()
    response = api.post("/codec/decode", json={"payloads": [encrypted]})
    assert response.status_code == 422
    assert "encrypted with key 'lost'" in response.json()["detail"]


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
def test_a_malformed_codec_request_is_422(api: httpx.Client, body: Any) -> None:
    response = api.post("/codec/decode", json=body)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_pages_of_temporals_ui_may_call_the_codec(api: httpx.Client, servers: Settings, host: str) -> None:
    origin = f"http://{host}:{servers.port('temporal_ui')}"
    preflight = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-namespace",
    }
    allowed = api.options("/codec/decode", headers=preflight)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, origin)
    response = api.post("/codec/decode", json={"payloads": [PLAIN]}, headers={"Origin": origin})
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, origin)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_pages_of_others_may_not(api: httpx.Client, origin: str) -> None:
    for ask in (api.options, api.post):
        response = ask("/codec/decode", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers


def test_the_codec_accepts_payloads_that_are_larger_than_an_order(api: httpx.Client) -> None:
    large = PLAIN | {"data": base64.b64encode(b"x" * 60_000).decode()}
    encrypted = api.post("/codec/encode", json={"payloads": [large]}).json()
    assert api.post("/codec/decode", json=encrypted).json() == {"payloads": [large]}
    too_large = PLAIN | {"data": "A" * 1024 * 1024}
    assert api.post("/codec/decode", json={"payloads": [too_large]}).status_code == 413


# --- With API keys: the last tests, because the API requires a key from here on ---


@pytest.fixture(scope="module")
def keys_by_role(order_database_url: str, api: httpx.Client) -> dict[str, str]:
    made = {role: new_key() for role in ("viewer", "operator")}
    for role, text in made.items():
        assert api_keys.add(order_database_url, hash_key(text), role, role)
    eventually(lambda: api.get("/whoami").status_code == 401)
    return made


async def test_the_codec_requires_a_key_of_role_operator(
    servers: Settings, shop: Shop, keys_by_role: dict[str, str]
) -> None:
    handle = await start_order(shop, "closed")
    await handle.result()
    words = ("show", "-w", handle.id, "--output", "json", "--codec-endpoint", f"{servers.api_url}/codec")
    shown = await temporal(servers, *words, "--codec-auth", f"Bearer {keys_by_role['operator']}")
    assert "77 zanzibar street" in readable(json.loads(shown))
    for auth in ((), ("--codec-auth", f"Bearer {keys_by_role['viewer']}")):
        # The command line retries, and never prints the response.
        with pytest.raises(AssertionError, match="Error: "):
            await temporal(servers, *words, *auth, "--command-timeout", "1s")


def test_a_page_of_temporals_ui_needs_the_key_too(
    servers: Settings, api: httpx.Client, keys_by_role: dict[str, str]
) -> None:
    def decoded(**headers: str) -> int:
        return api.post("/codec/decode", json={"payloads": [PLAIN]}, headers=headers).status_code

    key = {"Authorization": f"Bearer {keys_by_role['operator']}"}
    for origin in servers.temporal_ui_origins:
        assert decoded(Origin=origin) == 401
        assert decoded(**key, Origin=origin) == 200
    assert decoded(**key, Origin=servers.api_url) == 403
    assert api_keys.revoke(servers.order_database_url, "operator")
    eventually(lambda: decoded(**key, Origin=servers.temporal_ui_origins[0]) == 401)
