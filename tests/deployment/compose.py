"""docker-compose.yml and the Dockerfile as data."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.rest_client import Json

COMPOSE_FILE = PROJECT_ROOT / "docker-compose.yml"
DOCKERFILE = PROJECT_ROOT / "orchestrator" / "deployment" / "Dockerfile"
DOCKERIGNORE = PROJECT_ROOT / ".dockerignore"

SECRETS = {
    name: f"{name.lower().replace('_', '-')}-of-a-test"
    for name in (
        "POSTGRES_PASSWORD",
        "ORDERS_MIGRATOR_PASSWORD",
        "ORDERS_WRITER_PASSWORD",
        "ORDERS_API_PASSWORD",
        "ORDERS_LOADTEST_PASSWORD",
        "ORDERS_READER_PASSWORD",
        "TEMPORAL_DB_PASSWORD",
    )
} | {
    "API_KEY": "ord_" + "api-key-of-a-deployment".ljust(43, "k"),
    "LOAD_TEST_KEY": "ord_" + "load-test-key-of-a-deployment".ljust(43, "k"),
}
"""The variables that the file requires. What other tests write is searched for these values."""

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>[^}]*))?\})")


@dataclass(frozen=True)
class Service:
    """One service with its variables substituted. `environment` has no names without a value."""

    name: str
    definition: Json
    environment: dict[str, str]

    @property
    def is_ours(self) -> bool:
        return str(self.definition["image"]).startswith("order-lifecycle:")

    @property
    def is_job(self) -> bool:
        return str(self.definition["restart"]).startswith("on-failure")

    @property
    def networks(self) -> set[str]:
        return set(self.definition.get("networks", []))

    @property
    def replicas(self) -> int:
        return int(self.definition.get("scale", 1))

    @property
    def command(self) -> list[str]:
        return [str(word) for word in self.definition.get("command", [])]

    @property
    def health_check(self) -> list[str]:
        """The command, without the first word `CMD`."""
        words = self.definition["healthcheck"]["test"]
        assert words[0] == "CMD", words
        return [str(word) for word in words[1:]]

    @property
    def stop_seconds(self) -> float:
        grace: str = self.definition["stop_grace_period"]
        assert grace.endswith("s"), grace
        return float(grace.removesuffix("s"))


@cache
def text() -> str:
    return COMPOSE_FILE.read_text()


def services(given: dict[str, str] | None = None, profile: str | None = None) -> dict[str, Service]:
    """Return the services without a profile, or those of one profile, by name. `given` adds variables."""
    environment = SECRETS | (given or {})
    definitions = yaml.safe_load(text())["services"]
    found = {}
    for name, definition in definitions.items():
        if definition.get("profiles", [None]) != [profile]:
            continue
        definition = _substitute(definition, environment)
        variables = {
            variable: environment.get(variable) if value is None else str(value)
            for variable, value in definition.get("environment", {}).items()
        }
        found[name] = Service(
            name, definition, {name: value for name, value in variables.items() if value is not None}
        )
    return found


def in_order_of_start(among: dict[str, Service]) -> list[Service]:
    """Return the services, each after its dependencies."""
    ordered: list[Service] = []

    def add(service: Service) -> None:
        for name in service.definition.get("depends_on", {}):
            add(among[name])
        if service not in ordered:
            ordered.append(service)

    for service in among.values():
        add(service)
    return ordered


def top_level(key: str) -> Json:
    found: Json = yaml.safe_load(text())[key]
    return found


def image_environment() -> dict[str, str]:
    """Return the variables that the Dockerfile sets."""
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    return dict(word.split("=", 1) for word in block.replace("\\\n", " ").split())


def image_folders() -> list[str]:
    """Return the directories that the Dockerfile copies."""
    return re.findall(r"^COPY (\w+) \1$", DOCKERFILE.read_text(), re.MULTILINE)


def _substitute(value: Any, environment: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(each, environment) for key, each in value.items()}
    if isinstance(value, list):
        return [_substitute(each, environment) for each in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: _value(found, environment), value)
    return value


def _value(found: re.Match[str], environment: dict[str, str]) -> str:
    if found["name"] is None:
        return "$"
    value = environment.get(found["name"])
    if value:
        return value
    assert found["how"] == ":-", f"{found[0]} has no value and no default"
    return found["rest"]


def file_of_volume(service: Service, path: str) -> Path:
    """Return the file of the checkout that the service `configuration` copies to this path."""
    directory, _, name = path.rpartition("/")
    assert f"configuration:{directory}:ro" in service.definition["volumes"], service.name
    for volume in SERVICES["configuration"].definition["volumes"]:
        source, target, *_ = volume.split(":")
        if target.endswith(f"/{name}") and target in SERVICES["configuration"].command:
            return PROJECT_ROOT / str(source)
    raise LookupError(f"{service.name} has no {path}")


USES = {
    "postgres-roles": {"postgres"},
    "temporal-schema": {"postgres"},
    "temporal": {"postgres"},
    "temporal-namespace": {"temporal"},
    "temporal-ui": {"temporal"},
    "migrate": {"postgres"},
    "api-key": {"postgres"},
    "load-test-key": {"postgres"},
    "order-worker": {"postgres", "temporal"},
    "shipping-worker": {"postgres", "temporal"},
    "api": {"postgres", "temporal"},
    "dashboard": {"postgres", "api"},
    "locust-master": {"postgres", "api"},
    "locust-worker": {"api", "locust-master"},
}
"""The servers to which a service connects."""


SERVICES = services()
NEXT = {"NEXT_BUILD_ID": "2", "NEXT_IMAGE": "orders:2"}
NEXT_VERSION = services(NEXT, profile="next-version")
OURS = [service for service in SERVICES.values() if service.is_ours]
LASTING = [service for service in SERVICES.values() if not service.is_job]

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
each_of_ours = pytest.mark.parametrize("service", OURS, ids=[service.name for service in OURS])
each_lasting = pytest.mark.parametrize("service", LASTING, ids=[service.name for service in LASTING])
