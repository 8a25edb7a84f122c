"""Load tests with gateways in other processes: `http` under faults, and Stripe with lost responses."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.embedded import Stack
from orchestrator.embedded.layout import stack_environment
from orchestrator.errors import ExitCode
from orchestrator.settings import Settings
from orchestrator.settings.gateways import ROLES
from tests.fake_stripe import API_KEY, fake_stripe
from tests.gateway_server import TOKEN, gateway_server
from tests.load.harness import ROOT
from tests.ports import free_port_base

pytestmark = [pytest.mark.stack, pytest.mark.proof, pytest.mark.timeout(400)]

MEASURED = "timeout=0.2 need=0.8 compensation=3 first_backoff=0.02 max_backoff=0.25 breaker_failures=0"
"""The limits of the simulated gateways. Two of three calls fail under the faults, so no circuit may open."""


@asynccontextmanager
async def started_stack(home: Path, **settings: Any) -> AsyncIterator[Stack]:
    stack = Stack(Settings(orders_home=home, port_base=free_port_base(), database_url=None, **settings))
    await asyncio.to_thread(stack.up)
    try:
        yield stack
    finally:
        await asyncio.to_thread(stack.down)


async def run_load(stack: Stack, run_id: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Run a load test, and return its exit code and its verdict."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest", "run", "--exclude-rejected", f"--run-id={run_id}", *options),
        cwd=ROOT,
        env=os.environ | stack_environment(stack.settings),
    )
    code = await process.wait()
    report: dict[str, Any] = json.loads(
        (stack.settings.home / "reports" / run_id / "verdict.json").read_text()
    )
    return code, report


async def test_the_limit_is_held_with_faults_in_the_process_of_the_http_gateway(tmp_path: Path) -> None:
    gateways = {f"{role}_gateway": "http" for role in ROLES} | {f"{role}_calls": MEASURED for role in ROLES}
    url = f"http://127.0.0.1:{free_port_base()}"
    async with started_stack(
        tmp_path / "home", **gateways, http_gateway_url=url, http_gateway_token=TOKEN
    ) as stack:
        with gateway_server(url=url, environment=stack_environment(stack.settings)):
            faults = {"profile": "assignment", "seed": 7}
            async with httpx.AsyncClient() as client:
                access = {"Authorization": f"Bearer {TOKEN}"}
                (await client.put(f"{url}/faults", json=faults, headers=access)).raise_for_status()
                refused = await client.put(f"{stack.settings.api_url}/faults", json=faults)
                shown = (await client.get(f"{stack.settings.api_url}/faults")).json()
            assert (refused.status_code, refused.json()["detail"]) == (409, shown["unavailable"])
            assert "PAYMENT_GATEWAY is http" in shown["unavailable"]
            code, report = await run_load(
                stack, "http", "--scenario=start-only", "--rate=6", "--duration=50s"
            )
    assert code == ExitCode.PASSED, report
    assert report["database"]["clean"]
    assert report["outcomes"]["completed"] > 290
    assert report["times"]["completion_ms"]["p50"] > 2_500, "the faults were not made"
    assert (report["run"]["offered"], report["limit"]["late"]) == (300, 0)


async def test_a_killed_worker_and_lost_responses_of_stripe_charge_nothing_twice(tmp_path: Path) -> None:
    pytest.importorskip("stripe")
    pytest.importorskip("localstripe")
    async with (
        fake_stripe() as fake,
        started_stack(
            tmp_path / "home",
            payment_gateway="stripe",
            stripe_api_key=API_KEY,
            stripe_api_base=fake.url,
            stripe_payment_method=await fake.payment_method(),
        ) as stack,
    ):
        fake.lost_share = 0.1
        code, report = await run_load(
            stack, "stripe", "--scenario=mixed", "--rate=4", "--duration=50s", "--chaos=20s kill order-worker"
        )
        assert fake.lost > 20
        intents = Counter(each["status"] for each in await fake.objects("payment_intents"))
    assert code is not ExitCode.INVARIANT_BROKEN
    assert report["run"]["offered"] == 200
    assert report["disturbances"][0]["problem"] is None
    assert report["database"]["clean"], report["database"]
    assert report["outcomes"]["completed"] > 100
    assert intents["succeeded"] >= report["outcomes"]["completed"]
    assert set(intents) == {"succeeded", "canceled"}
