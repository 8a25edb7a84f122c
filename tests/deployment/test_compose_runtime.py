"""docker-compose.yml: privileges, limits, dependencies, networks and volumes."""

import itertools
import re

import pytest

from orchestrator.embedded.layout import PROJECT_ROOT
from tests.deployment import compose
from tests.deployment.compose import NEXT_VERSION, OURS, SERVICES, USES, Service, each_service

DEPLOYMENT_PAGE = PROJECT_ROOT / "docs" / "how-to" / "deploy-with-compose.md"
PASSWORDS_PAGE = PROJECT_ROOT / "docs" / "how-to" / "change-keys-and-passwords.md"


@each_service
def test_each_service_has_minimal_privileges_and_limits(service: Service) -> None:
    definition = service.definition
    assert definition["cap_drop"] == ["ALL"]
    assert definition["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in definition
    # The job that reads files of any owner has no network.
    assert ("cap_add" in definition) == (definition.get("network_mode") == "none")
    assert definition.get("cap_add", ["DAC_READ_SEARCH"]) == ["DAC_READ_SEARCH"]
    assert definition["mem_limit"]
    assert definition["cpus"]
    assert definition["pids_limit"]
    assert definition["read_only"] is True
    if service.is_ours:
        assert definition["stop_grace_period"]


@each_service
def test_each_service_restarts(service: Service) -> None:
    assert service.definition["restart"] == ("on-failure:5" if service.is_job else "unless-stopped")


@each_service
def test_dependencies_are_complete(service: Service) -> None:
    for name, wanted in service.definition.get("depends_on", {}).items():
        assert wanted["condition"] == (
            "service_completed_successfully" if SERVICES[name].is_job else "service_healthy"
        )
    if "0.0.0.0" in service.environment.get("BIND_ADDRESS", ""):
        assert any(name in service.definition["depends_on"] for name in ("api-key", "api"))
    # No cycle, and every service starts after the database.
    order = [each.name for each in compose.in_order_of_start(SERVICES)]
    assert service.name == "configuration" or order.index(service.name) >= order.index("postgres")


def test_dependencies() -> None:
    dependencies = {
        name: {other: wanted["condition"] for other, wanted in service.definition["depends_on"].items()}
        for name, service in SERVICES.items()
        if "depends_on" in service.definition
    }
    healthy, ended = "service_healthy", "service_completed_successfully"
    servers = {"api-key": ended, "temporal-namespace": ended}
    assert dependencies == {
        "postgres-roles": {"configuration": ended, "postgres": healthy},
        "temporal-schema": {"postgres-roles": ended},
        "temporal": {"temporal-schema": ended},
        "temporal-namespace": {"temporal": healthy},
        "temporal-ui": {"temporal-namespace": ended},
        "migrate": {"postgres-roles": ended},
        "api-key": {"migrate": ended},
        "load-test-key": {"migrate": ended},
        "order-worker": servers,
        "shipping-worker": servers,
        "api": servers,
        "dashboard": {"api": healthy},
        "locust-master": {"api": healthy},
        "locust-worker": {"locust-master": healthy, "load-test-key": ended},
    }


def test_the_documented_commands_for_an_external_temporal_keep_the_order() -> None:
    """They start all services except Temporal's, each after its dependencies."""
    section = DEPLOYMENT_PAGE.read_text().partition("## An external Temporal server")[2].partition("\n## ")[0]
    started: list[str] = []
    for job, lasting in re.findall(
        r"^docker compose (?:run --rm --no-deps (\S+)|up --detach --wait(?: --no-deps)? (.+))$",
        section,
        re.MULTILINE,
    ):
        assert not job or SERVICES[job].is_job
        assert not any(SERVICES[name].is_job for name in lasting.split())
        for name in (job, *lasting.split()):
            if name:
                needed = SERVICES[name].definition.get("depends_on", {})
                assert {each for each in needed if "temporal" not in each} <= {*started, *lasting.split()}
        started += [job] if job else lasting.split()
    assert sorted(started) == sorted(name for name in SERVICES if "temporal" not in name)


# --- Networks -------------------------------------------------------------------------------------------


PAIRS = list(itertools.combinations(sorted(SERVICES), 2))


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_two_services_share_a_network_only_if_one_uses_the_other(one: str, other: str) -> None:
    if SERVICES[one].is_job and SERVICES[other].is_job:
        return  # Jobs listen on no port.
    uses = other in USES.get(one, set()) or one in USES.get(other, set())
    assert bool(SERVICES[one].networks & SERVICES[other].networks) == uses


def test_workers_of_the_next_version_are_in_the_networks_of_the_current_ones() -> None:
    for name, service in NEXT_VERSION.items():
        assert service.networks == SERVICES[name.removesuffix("-next")].networks


@each_service
def test_ports_are_published_on_the_loopback_address_only(service: Service) -> None:
    for port in service.definition.get("ports", []):
        assert port.startswith("127.0.0.1:")
        assert service.replicas == 1
    networks = compose.top_level("networks")
    external = [name for name in service.networks if not networks[name].get("internal")]
    assert bool(external) == bool(service.definition.get("ports"))


def test_every_network_is_used_and_defined() -> None:
    assert (
        set().union(*(service.networks for service in SERVICES.values()))
        == compose.top_level("networks").keys()
    )


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("order-worker", "ORDER_WORKERS"),
        ("shipping-worker", "SHIPPING_WORKERS"),
        ("locust-worker", "LOCUST_WORKERS"),
    ],
)
def test_the_environment_sets_the_number_of_containers(name: str, variable: str) -> None:
    assert SERVICES[name].replicas == 2
    scaled = compose.services({variable: "5"})
    assert {each.name: each.replicas for each in scaled.values()} == {
        each.name: 5 if each.name == name else each.replicas for each in SERVICES.values()
    }


@each_service
def test_each_service_can_be_scaled(service: Service) -> None:
    assert "container_name" not in service.definition
    assert "hostname" not in service.definition


@each_service
def test_each_image_is_pinned(service: Service) -> None:
    _, version = service.definition["image"].split(":")
    if service.is_ours:
        assert version in {"local", "local-full"}
    else:
        assert re.fullmatch(r"\d+\.\d+(\.\d+)?(-\w+)?", version)


def test_each_image_is_built_by_one_service() -> None:
    """Two builds of one image at the same time can fail."""
    every = [*SERVICES.values(), *NEXT_VERSION.values()]
    built = [service.definition["image"] for service in every if "build" in service.definition]
    assert sorted(built) == sorted(
        {service.definition["image"] for service in every if service.is_ours} | {"orders:2"}
    )


def test_services_use_the_smallest_image_that_they_need() -> None:
    images = {service.name: service.definition["image"] for service in OURS}
    full = {name for name, image in images.items() if image == "order-lifecycle:local-full"}
    assert full == {service.name for service in OURS if service.command[2] in {"dashboard", "locust"}}
    targets = {
        service.definition["image"]: service.definition["build"]["target"]
        for service in OURS
        if "build" in service.definition
    }
    assert targets == {"order-lifecycle:local": "core", "order-lifecycle:local-full": "full"}


def test_no_service_has_an_anonymous_volume() -> None:
    """The image of PostgreSQL declares /var/lib/postgresql as a volume."""
    for service in SERVICES.values():
        if service.definition["image"].startswith("postgres:"):
            mounted = [volume.split(":")[1] for volume in service.definition.get("volumes", [])]
            assert "/var/lib/postgresql" in [*mounted, *service.definition.get("tmpfs", [])], service.name


def test_browsers_that_show_the_temporal_ui_send_no_request_to_other_hosts() -> None:
    environment = SERVICES["temporal-ui"].environment
    assert environment["TEMPORAL_DISABLE_NEWS_FETCH"] == "true"
    assert environment["TEMPORAL_NOTIFY_ON_NEW_VERSION"] == "false"


def test_traces_have_our_resource_attributes() -> None:
    """Docker before 28.0.2 sets OTEL_RESOURCE_ATTRIBUTES, also for the substitution of variables."""
    given = {"OTEL_RESOURCE_ATTRIBUTES": "docker.cli.cobra.command_path=docker%20compose"}
    for ours, expected in (({}, ""), ({"ORDERS_RESOURCE_ATTRIBUTES": "team=orders"}, "team=orders")):
        found = compose.services(given | ours)
        for name in ("order-worker", "shipping-worker", "api"):
            assert found[name].environment["OTEL_RESOURCE_ATTRIBUTES"] == expected


def test_data_is_in_named_volumes() -> None:
    volumes = compose.top_level("volumes")
    mounted = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.definition.get("volumes", [])
    }
    assert {volume for volume in mounted if not volume.startswith("./")} == volumes.keys()
    assert all((PROJECT_ROOT / volume).is_file() for volume in mounted if volume.startswith("./"))
    # PostgreSQL 18 stores its data in a subdirectory named by its version.
    assert "postgres-data:/var/lib/postgresql" in SERVICES["postgres"].definition["volumes"]


@pytest.mark.parametrize(
    "user", ["orders_reader", "orders_loadtest", "orders_api", "orders_writer", "orders_migrator"]
)
def test_the_documented_change_of_a_password_restarts_only_the_services_that_use_it(user: str) -> None:
    variable = f"{user.upper()}_PASSWORD"
    changed = compose.services({variable: "another"})
    users = {name for name in SERVICES if changed[name].environment != SERVICES[name].environment}
    row = re.search(rf"^\| `{user}` \| (.*) \|$", PASSWORDS_PAGE.read_text(), re.MULTILINE)
    assert row is not None
    restarted = [word for word in re.findall(r"[\w-]+", row[1]) if word in SERVICES]
    assert {"postgres-roles", *restarted} == users
    assert "up --" in row[1]
    assert "--no-deps" in row[1]
