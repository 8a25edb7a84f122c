"""The example in docs/examples: a gateway of another package, found by its entry point."""

import sys
import tomllib
from datetime import UTC, datetime

import pytest

from db.domain import Address, State, Step
from orchestrator.activities.shipping import ShippingActivities
from orchestrator.activities.step_runner import StepRunner
from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.errors import GatewayDeclined, SettingsError
from orchestrator.gateways import registry
from orchestrator.messages.activities import StepStatus
from orchestrator.settings import Settings
from tests.integration.test_provider_guarantees import in_activity
from tests.integration.test_step_runner import request
from tests.orders import ADDRESS, OTHER_ADDRESS

EXAMPLE = PROJECT_ROOT / "docs" / "examples" / "sqlite_carrier"
MAX_LINES = 80
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The example as an installed package, without an installation."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    information = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (information / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setenv("SQLITE_CARRIER_FILE", str(tmp_path / "parcels.sqlite"))
    registry._entry_points.cache_clear()
    yield Settings(carrier_gateway="sqlite")
    registry._entry_points.cache_clear()
    sys.modules.pop("sqlite_carrier", None)


def test_the_example_is_short():
    assert len((EXAMPLE / "sqlite_carrier.py").read_text().splitlines()) < MAX_LINES


async def test_an_order_is_dispatched_and_recalled_with_the_example(driver, repository, pool, installed):
    order_id = await driver.carry_to(State.PREPARED)
    async with registry.open_gateways(installed, pool) as gateways:
        activities = ShippingActivities(StepRunner(repository, calls=gateways.calls), gateways)
        result = await in_activity(lambda: activities.dispatch(request(order_id, Step.DISPATCH)))
        assert result.status is StepStatus.DONE
        (parcel,) = [each async for each in gateways.carrier.parcels(BEGINNING)]
        assert parcel.label_address == (await driver.row(order_id))["address"]
        assert gateways.calls[Step.DISPATCH].policy.timeout == 0.5


async def test_the_example_gives_every_guarantee_that_it_declares(pool, installed):
    async with registry.open_gateways(installed, pool) as gateways:
        carrier = gateways.carrier
        numbers = {await carrier.dispatch("key", "order", ADDRESS, version) for version in (1, 1, 2)}
        assert len(numbers) == 1
        await carrier.dispatch("key", "order", OTHER_ADDRESS, 3)
        await carrier.dispatch("key", "order", ADDRESS, 2)
        labels = [each.label_address async for each in carrier.parcels(BEGINNING)]
        assert labels == [OTHER_ADDRESS.to_json()]
        for key in ("key", "never dispatched"):
            await carrier.cancel_shipment(key, "order")
            with pytest.raises(GatewayDeclined, match="cancelled"):
                await carrier.dispatch(key, "order", ADDRESS, 4)
        with pytest.raises(GatewayDeclined, match="no delivery to DE"):
            await carrier.check_address("order", Address("Street 1", "Berlin", country="DE"))


def test_a_gateway_without_the_service_is_refused(installed):
    with pytest.raises(SettingsError, match="the gateway 'sqlite' has no payment service"):
        registry.provider(Settings(payment_gateway="sqlite"), "payment")
