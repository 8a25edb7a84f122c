"""docker-compose.yml: privileges, limits, dependencies, networks and volumes."""

import re

from orchestrator.embedded.layout import PROJECT_ROOT
from tests.deployment import compose
from tests.deployment.compose import SERVICES, Service, each_service

DEPLOYMENT_PAGE = PROJECT_ROOT / "docs" / "how-to" / "deploy-with-compose.md"


@each_service
def test_each_service_has_minimal_privileges_and_limits(service: Service) -> None:
    definition = service.definition
    assert definition["cap_drop"] == ["ALL"]
    assert definition["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in definition
    assert "cap_add" not in definition
    assert definition["mem_limit"]
    assert definition["cpus"]
    assert definition["pids_limit"]
    assert definition["networks"]
    if service.is_ours:
        assert definition["read_only"] is True
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
    assert order.index(service.name) >= order.index("postgres")


def test_dependencies() -> None:
    dependencies = {
        name: {other: wanted["condition"] for other, wanted in service.definition["depends_on"].items()}
        for name, service in SERVICES.items()
        if "depends_on" in service.definition
    }
    healthy, ended = "service_healthy", "service_completed_successfully"
    servers = {"api-key": ended, "temporal-namespace": ended}
    assert dependencies == {
        "postgres-roles": {"postgres": healthy},
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
    section = DEPLOYMENT_PAGE.read_text().partition("## Temporal elsewhere")[2].partition("\n## ")[0]
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


@each_service
def test_ports_are_published_on_the_loopback_address_only(service: Service) -> None:
    for port in service.definition.get("ports", []):
        assert port.startswith("127.0.0.1:")
        assert service.definition.get("scale", 1) == 1
    networks = compose.top_level("networks")
    external = [name for name in service.definition["networks"] if not networks[name].get("internal")]
    assert bool(external) == bool(service.definition.get("ports"))


def test_load_generators_cannot_reach_the_servers() -> None:
    generators = set(SERVICES["locust-worker"].definition["networks"])
    for name in ("postgres", "temporal"):
        assert not generators & set(SERVICES[name].definition["networks"])


@each_service
def test_each_service_can_be_scaled(service: Service) -> None:
    assert "container_name" not in service.definition
    assert "hostname" not in service.definition


@each_service
def test_each_image_is_pinned(service: Service) -> None:
    _, version = service.definition["image"].split(":")
    assert version == "local" if service.is_ours else re.fullmatch(r"\d+\.\d+(\.\d+)?(-\w+)?", version)


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
