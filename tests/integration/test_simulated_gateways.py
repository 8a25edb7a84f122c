"""The simulated gateways, and the gateway `http` in front of them: idempotent by key, and a compensating call
also prevents the call it reverts."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
import typer
from pydantic import SecretStr

from db.database import Database
from db.domain import Address, Item
from orchestrator.errors import ExitCode, GatewayDeclined, GatewayError
from orchestrator.gateways import server, simulated
from orchestrator.gateways.protocols import Gateways, Payment, RefundOutcome
from orchestrator.gateways.registry import open_gateways
from orchestrator.settings import Settings
from orchestrator.settings.gateways import ROLES
from tests.gateway_server import TOKEN, gateway_server
from tests.orders import ADDRESS, OTHER_ADDRESS, new_order, provider_balance
from tests.ports import free_port_base
from tests.shop import simulated_gateways
from tests.tls import Authority

ITEMS = [Item("A", 1, 100)]


def http_settings(**changes) -> Settings:
    return Settings(**{f"{role}_gateway": "http" for role in ROLES} | changes)


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["simulated", "http"])
async def gateways(request, pool, order_database_url) -> AsyncIterator[Gateways]:
    if request.param == "simulated":
        yield simulated_gateways(pool)
        return
    with gateway_server(order_database_url) as url:
        settings = http_settings(http_gateway_url=url, http_gateway_token=SecretStr(TOKEN))
        async with open_gateways(settings, pool) as gateways:
            yield gateways


@pytest.fixture
def key() -> str:
    return new_order().order_id


async def ledger(pool: Database, payment_id: str) -> Counter[str]:
    rows = await pool.fetch_all(
        "select kind from provider.ledger where payment_id = %(id)s", {"id": payment_id}
    )
    return Counter(row["kind"] for row in rows)


async def parcel(pool: Database, key: str):
    return await pool.fetch_one("select * from provider.parcels where shipment_key = %(key)s", {"key": key})


async def package(pool: Database, key: str):
    return await pool.fetch_one("select * from provider.packages where package_key = %(key)s", {"key": key})


async def declined(call) -> bool:
    try:
        await call
    except GatewayDeclined:
        return True
    return False


# --- Payments ---------------------------------------------------------------------------------------


async def test_a_payment_id_is_charged_once(gateways, pool, key):
    for _ in range(3):
        await gateways.payments.charge(Payment(key, "order", 500))
    assert await ledger(pool, key) == {"charge": 1}
    assert await provider_balance(pool, key) == (500, 0)


async def test_concurrent_charges_of_a_payment_id_charge_once(gateways, pool, key):
    await asyncio.gather(*(gateways.payments.charge(Payment(key, "order", 500)) for _ in range(12)))
    assert await ledger(pool, key) == {"charge": 1}


@pytest.mark.parametrize(("order_id", "cents"), [("another order", 500), ("order", 501)])
async def test_a_payment_id_of_another_charge_is_declined(gateways, pool, key, order_id, cents):
    await gateways.payments.charge(Payment(key, "order", 500))
    with pytest.raises(GatewayDeclined):
        await gateways.payments.charge(Payment(key, order_id, cents))
    assert await provider_balance(pool, key) == (500, 0)


async def test_a_charge_is_refunded_once_in_full(gateways, pool, key):
    await gateways.payments.charge(Payment(key, "order", 500))
    for _ in range(3):
        assert await gateways.payments.refund(Payment(key, "order", 500)) is RefundOutcome.REFUNDED
    assert await provider_balance(pool, key) == (500, 500)
    assert await ledger(pool, key) == {"charge": 1, "refund": 1}


async def test_concurrent_refunds_refund_once(gateways, pool, key):
    await gateways.payments.charge(Payment(key, "order", 500))
    outcome = await asyncio.gather(*(gateways.payments.refund(Payment(key, "order", 500)) for _ in range(12)))
    assert set(outcome) == {RefundOutcome.REFUNDED}
    assert await ledger(pool, key) == {"charge": 1, "refund": 1}


async def test_a_refund_before_the_charge_voids_the_payment_id_and_a_later_charge_is_declined(
    gateways, pool, key
):
    for _ in range(2):
        assert await gateways.payments.refund(Payment(key, "order", 500)) is RefundOutcome.VOIDED
    with pytest.raises(GatewayDeclined, match="voided"):
        await gateways.payments.charge(Payment(key, "order", 500))
    assert await provider_balance(pool, key) == (0, 0)
    assert await ledger(pool, key) == {"void": 1}


async def test_a_charge_repeated_after_its_refund_charges_nothing(gateways, pool, key):
    await gateways.payments.charge(Payment(key, "order", 500))
    await gateways.payments.refund(Payment(key, "order", 500))
    await gateways.payments.charge(Payment(key, "order", 500))
    assert await provider_balance(pool, key) == (500, 500)


async def test_a_concurrent_charge_and_refund_leave_a_net_charge_of_zero(gateways, pool):
    for _ in range(20):
        key = new_order().order_id
        was_declined, outcome = await asyncio.gather(
            declined(gateways.payments.charge(Payment(key, "order", 500))),
            gateways.payments.refund(Payment(key, "order", 500)),
        )
        charged_cents, refunded_cents = await provider_balance(pool, key)
        assert charged_cents == refunded_cents
        assert was_declined == (outcome is RefundOutcome.VOIDED)


async def test_a_refund_for_another_order_changes_nothing(gateways, pool, key):
    await gateways.payments.charge(Payment(key, "order", 500))
    await gateways.payments.refund(Payment(key, "another order", 500))
    assert await provider_balance(pool, key) == (500, 0)


# --- Warehouse --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sku", ["OUT-OF-STOCK", "out-of-stock-7"])
async def test_an_item_out_of_stock_is_declined_with_its_sku(gateways, key, sku):
    with pytest.raises(GatewayDeclined, match=sku):
        await gateways.warehouse.check_stock(key, [*ITEMS, Item(sku, 1, 1)])
    await gateways.warehouse.check_stock(key, ITEMS)


async def test_a_package_is_packed_once_and_returned_once(gateways, pool, key):
    for _ in range(2):
        await gateways.warehouse.pack(key, "order", ITEMS)
    packed = await package(pool, key)
    for _ in range(2):
        await gateways.warehouse.unpack(key, "order")
    returned = await package(pool, key)
    assert (packed["recalled_at"], returned["packed_at"]) == (None, packed["packed_at"])
    assert returned["recalled_at"] >= returned["packed_at"]
    assert returned["items"] == [{"sku": "A", "quantity": 1, "unit_price_cents": 100}]


async def test_a_cancelled_package_is_never_packed(gateways, pool, key):
    await gateways.warehouse.unpack(key, "order")
    with pytest.raises(GatewayDeclined, match="cancelled"):
        await gateways.warehouse.pack(key, "order", ITEMS)
    row = await package(pool, key)
    assert (row["packed_at"], row["recalled_at"] is None) == (None, False)


async def test_a_concurrently_packed_and_returned_package_is_not_left_packed(gateways, pool):
    for _ in range(20):
        key = new_order().order_id
        was_declined, _ = await asyncio.gather(
            declined(gateways.warehouse.pack(key, "order", ITEMS)), gateways.warehouse.unpack(key, "order")
        )
        row = await package(pool, key)
        assert row["recalled_at"] is not None
        assert was_declined == (row["packed_at"] is None)


# --- Carrier ----------------------------------------------------------------------------------------


async def test_an_address_with_zip_00000_is_declined(gateways, key):
    with pytest.raises(GatewayDeclined, match="no delivery to 00000"):
        await gateways.carrier.check_address(key, Address("1 Nowhere", "Void", "XX", "00000"))


async def test_a_dispatch_to_an_address_without_delivery_is_declined(gateways, pool):
    key = new_order().order_id
    assert await declined(
        gateways.carrier.dispatch(key, "order", Address("1 Nowhere", "Void", "XX", "00000"), 1)
    )
    assert await parcel(pool, key) is None
    await gateways.carrier.check_address(key, ADDRESS)


async def test_a_parcel_is_dispatched_once_and_keeps_its_tracking_number(gateways, pool, key):
    numbers = {await gateways.carrier.dispatch(key, "order", ADDRESS, 1) for _ in range(3)}
    assert len(numbers) == 1
    row = await parcel(pool, key)
    assert (row["tracking"], row["label_version"], row["recalled_at"]) == (*numbers, 1, None)


async def test_two_parcels_have_two_tracking_numbers(gateways):
    one, other = [
        await gateways.carrier.dispatch(new_order().order_id, "order", ADDRESS, 1) for _ in range(2)
    ]
    assert one != other


async def test_only_a_newer_label_replaces_the_stored_one(gateways, pool, key):
    first = await gateways.carrier.dispatch(key, "order", ADDRESS, 1)
    second = await gateways.carrier.dispatch(key, "order", OTHER_ADDRESS, 2)
    late = await gateways.carrier.dispatch(key, "order", ADDRESS, 1)
    row = await parcel(pool, key)
    assert first == second == late
    assert (row["label_version"], row["label_address"]["street"]) == (2, OTHER_ADDRESS.street)


async def test_of_concurrent_labels_the_newest_is_stored(gateways, pool, key):
    addresses = {version: Address(f"{version} Street", "Town", "CA", "90001") for version in range(1, 9)}
    await asyncio.gather(
        *(gateways.carrier.dispatch(key, "order", address, version) for version, address in addresses.items())
    )
    row = await parcel(pool, key)
    assert (row["label_version"], row["label_address"]["street"]) == (8, "8 Street")


async def test_a_recalled_parcel_is_not_dispatched_again(gateways, pool, key):
    await gateways.carrier.dispatch(key, "order", ADDRESS, 1)
    for _ in range(2):
        await gateways.carrier.cancel_shipment(key, "order")
    assert await declined(gateways.carrier.dispatch(key, "order", OTHER_ADDRESS, 2))
    row = await parcel(pool, key)
    assert (row["dispatched_at"] is None, row["recalled_at"] is None) == (False, False)
    assert row["label_version"] == 1


async def test_a_cancelled_shipment_is_never_dispatched(gateways, pool, key):
    await gateways.carrier.cancel_shipment(key, "order")
    assert await declined(gateways.carrier.dispatch(key, "order", ADDRESS, 1))
    assert (await parcel(pool, key))["dispatched_at"] is None


async def test_a_concurrently_dispatched_and_recalled_parcel_is_recalled(gateways, pool):
    for _ in range(20):
        key = new_order().order_id
        was_declined, _ = await asyncio.gather(
            declined(gateways.carrier.dispatch(key, "order", ADDRESS, 1)),
            gateways.carrier.cancel_shipment(key, "order"),
        )
        row = await parcel(pool, key)
        assert row["recalled_at"] is not None
        assert was_declined == (row["dispatched_at"] is None)


# --- Records ------------------------------------------------------------------


async def test_the_records_have_every_change_since_a_time(gateways, key, monkeypatch):
    # So that the records of the other tests are several pages for the simulated gateways.
    monkeypatch.setattr(simulated, "PAGE_SIZE", 3)
    began = datetime.now(UTC)
    await gateways.payments.charge(Payment(key, key, 700, "EUR"))
    await gateways.payments.refund(Payment(key, key, 700, "EUR"))
    await gateways.payments.refund(Payment(f"{key}-void", key, 700, "EUR"))
    await gateways.warehouse.pack(key, key, ITEMS)
    await gateways.carrier.dispatch(key, key, ADDRESS, 4)
    await gateways.carrier.cancel_shipment(key, key)
    entries = [entry async for entry in gateways.payments.ledger(began)]
    assert [(entry.kind, entry.amount_cents, entry.currency) for entry in entries] == [
        ("charge", 700, "EUR"),
        ("refund", 700, "EUR"),
    ]
    (package,) = [record async for record in gateways.warehouse.packages(began)]
    assert (package.order_id, package.packed_at > began, package.recalled_at) == (key, True, None)
    (parcel,) = [record async for record in gateways.carrier.parcels(began)]
    assert (parcel.label_version, parcel.label_address) == (4, ADDRESS.to_json())
    assert parcel.recalled_at > parcel.dispatched_at
    everything = [entry async for entry in gateways.payments.ledger(began - timedelta(hours=1))]
    assert len({entry.entry_ref for entry in everything}) == len(everything) > 3


# --- Outage ------------------------------------------------------------------


async def test_a_provider_that_is_unavailable_is_an_error_not_a_decline(tmp_path):
    async with Database(f"postgresql://postgres@/orders?host={tmp_path}") as unavailable:
        gateways = simulated_gateways(unavailable)
        calls = [
            gateways.payments.charge(Payment("p", "o", 1)),
            gateways.payments.refund(Payment("p", "o", 1)),
            gateways.warehouse.pack("p", "o", ITEMS),
            gateways.warehouse.unpack("p", "o"),
            gateways.carrier.dispatch("p", "o", ADDRESS, 1),
            gateways.carrier.cancel_shipment("p", "o"),
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [GatewayError] * len(calls)


async def test_an_http_server_that_does_not_respond_is_an_error(pool):
    settings = http_settings(http_gateway_url=f"http://127.0.0.1:{free_port_base()}")
    async with open_gateways(settings, pool) as gateways:
        with pytest.raises(GatewayError, match="POST /payments/charges failed: ConnectError") as raised:
            await gateways.payments.charge(Payment("p", "o", 1))
    assert not isinstance(raised.value, GatewayDeclined)


async def test_the_http_server_rejects_a_call_without_its_token(pool, order_database_url):
    with gateway_server(order_database_url) as url:
        async with open_gateways(http_settings(http_gateway_url=url), pool) as gateways:
            with pytest.raises(GatewayError, match="status 401"):
                await gateways.payments.charge(Payment("p", "o", 1))


async def test_https_needs_a_certificate_of_a_trusted_authority(
    pool, order_database_url, tmp_path, monkeypatch
):
    authority = Authority.create(tmp_path)
    with gateway_server(order_database_url, certificate=authority.issue(tmp_path)) as url:
        settings = http_settings(http_gateway_url=url, http_gateway_token=SecretStr(TOKEN))
        async with open_gateways(settings, pool) as gateways:
            with pytest.raises(GatewayError, match="set SSL_CERT_FILE to the certificate of its authority"):
                await gateways.warehouse.check_stock("o", ITEMS)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        async with open_gateways(settings, pool) as gateways:
            await gateways.warehouse.check_stock("o", ITEMS)


def test_a_server_without_its_database_names_the_cause(capsys):
    with pytest.raises(typer.Exit) as raised:
        server.main(f"postgresql://127.0.0.1:{free_port_base()}/gateways")
    assert raised.value.exit_code == ExitCode.WRONG_USAGE
    assert "cannot use its database: connection failed" in capsys.readouterr().err
