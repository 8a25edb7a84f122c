"""docker-compose.yml: its syntax, commands, variables, secrets and health checks."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from pydantic import AliasChoices

from orchestrator.api.app import create_app
from orchestrator.embedded.layout import PROJECT_ROOT, packaged_program
from orchestrator.settings import Settings
from tests.deployment import compose
from tests.deployment.compose import (
    LASTING,
    NEXT,
    NEXT_VERSION,
    OURS,
    SECRETS,
    SERVICES,
    Service,
    each_lasting,
    each_of_ours,
)

MERGE = "tag:yaml.org,2002:merge"
DEPLOYMENT_PAGE = PROJECT_ROOT / "docs" / "how-to" / "deploy-with-compose.md"

# Read by the Temporal SDK (temporalio.envconfig).
SDK_VARIABLES = {
    "TEMPORAL_ADDRESS",
    "TEMPORAL_NAMESPACE",
    "TEMPORAL_API_KEY",
    "TEMPORAL_TLS",
    "TEMPORAL_TLS_SERVER_CA_CERT_PATH",
    "TEMPORAL_TLS_SERVER_NAME",
    "TEMPORAL_TLS_CLIENT_CERT_PATH",
    "TEMPORAL_TLS_CLIENT_KEY_PATH",
}
# Read by OpenTelemetry, besides the variable that activates it.
OTEL_VARIABLES = {
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
}
NOT_FOR_CONTAINERS = {
    "ORDERS_HOME": "set in the image",
    "DATABASE_URL": "each service has its own user",
    "DATABASE_READER_URL": "the dashboard has its own user",
    "DATABASE_PREPARED_STATEMENTS": "no connection pooler",
    "BIND_ADDRESS": "access depends on the networks",
    "API_URL": "the name of the service",
    "AUTH": "always required",
    "LIVENESS_FILE": "used by the health check",
    "WORKER_METRICS_PORT": "set in the configuration of Prometheus",
    "PORT_BASE": "ports are published individually",
    "TEMPORAL_PORT": "not published",
    "TEMPORAL_METRICS_PORT": "not published",
    "TEMPORAL_HTTP_PORT": "not published",
    "TEMPORAL_PROFILE": "a file outside of the container",
    "TEMPORAL_CONFIG_FILE": "a file outside of the container",
    "STRIPE_API_BASE": "for tests with a fake Stripe",
    "EVENTS_KEEP_DAYS": "the workers do not own the tables: docs/how-to/deploy-with-compose.md",
}
USERS_OF = {
    "orders_migrator": {"migrate", "api-key", "load-test-key"},
    "orders_writer": {"order-worker", "shipping-worker"},
    "orders_api": {"api"},
    "orders_loadtest": {"locust-master"},
    "orders_reader": {"dashboard"},
}


def test_the_file_has_every_service() -> None:
    assert SERVICES.keys() == {
        "postgres", "configuration", "postgres-roles", "temporal-schema", "temporal", "temporal-namespace",
        "temporal-ui", "migrate", "api-key", "load-test-key", "order-worker", "shipping-worker", "api",
        "dashboard", "locust-master", "locust-worker",
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs Debian's docker-compose")
class TestParser:
    """With the parser of docker-compose."""

    def config(self, directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        # Instead of an `.env` beside the file.
        (directory / "empty.env").touch()
        return subprocess.run(
            ["docker-compose", "--file", str(compose.COMPOSE_FILE), "--env-file", "empty.env", "config"],
            cwd=directory,
            env={"PATH": os.environ["PATH"]} | environment,
            capture_output=True,
            text=True,
        )

    def test_it_reads_the_file_as_these_tests_do(self, tmp_path: Path) -> None:
        done = self.config(tmp_path, SECRETS | NEXT)
        assert (done.returncode, done.stderr) == (0, "")
        parsed = yaml.safe_load(done.stdout)["services"]
        assert parsed.keys() == SERVICES.keys() | NEXT_VERSION.keys()
        for name, service in (SERVICES | NEXT_VERSION).items():
            variables = parsed[name].get("environment", {})
            assert {
                key: value for key, value in variables.items() if value is not None
            } == service.environment
            # The output is a compose file, in which a dollar sign is doubled.
            command = [word.replace("$$", "$") for word in parsed[name].get("command", [])]
            assert command == service.command
            for key in ("restart", "image", "profiles"):
                assert parsed[name].get(key) == service.definition.get(key)

    def test_passwords_are_required(self, tmp_path: Path) -> None:
        done = self.config(tmp_path, {name: value for name, value in SECRETS.items() if "READER" not in name})
        assert done.returncode != 0
        assert "set a password for orders_reader" in done.stderr


def test_the_order_of_merges_does_not_matter() -> None:
    """For a key in two merged mappings, some parsers use the first and others the last."""

    def keys(node: yaml.MappingNode) -> list[str]:
        found = [key.value for key, _ in node.value if key.tag != MERGE]
        for key, value in node.value:
            if key.tag == MERGE:
                merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                from_others = [name for each in merged for name in set(keys(each)) - set(found)]
                assert len(from_others) == len(set(from_others)), (node.start_mark, sorted(from_others))
                found += from_others
        return found

    def check(node: yaml.Node) -> None:
        if isinstance(node, yaml.MappingNode):
            keys(node)
            for _, value in node.value:
                check(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                check(value)

    whole = yaml.compose(compose.text())
    assert whole is not None
    check(whole)


def test_hadolint_accepts_the_dockerfile() -> None:
    done = subprocess.run(
        [packaged_program("hadolint"), str(compose.DOCKERFILE)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


# --- Commands, variables, health checks -----------------------------------------------------------------


@each_of_ours
def test_the_command_exists(service: Service) -> None:
    program, switch, module, *_ = service.command
    assert (program, switch) == ("python", "-m")
    assert importlib.util.find_spec(module) is not None
    for word in service.command:
        if word.endswith(".py"):
            assert (PROJECT_ROOT / word).is_file()
            assert Path(word).parts[0] in compose.image_folders()


@each_of_ours
def test_every_variable_is_a_setting(service: Service) -> None:
    known = SDK_VARIABLES | OTEL_VARIABLES | {"OTEL_RESOURCE_ATTRIBUTES"}
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        known |= (
            {str(choice) for choice in alias.choices} if isinstance(alias, AliasChoices) else {name.upper()}
        )
    assert service.definition["environment"].keys() <= known
    # And each value is valid.
    given = {name.lower(): value for name, value in service.environment.items()}
    Settings(_env_file=None, **given)  # type: ignore[call-arg,arg-type]


def test_every_setting_is_passed_on_or_has_a_reason_not_to_be() -> None:
    listed = set(re.findall(r"^#([A-Z_]+)=", (PROJECT_ROOT / ".env.example").read_text(), re.MULTILINE))
    passed_on = set(re.findall(r"\$\{(\w+)", compose.text()))
    for service in yaml.safe_load(compose.text())["services"].values():
        passed_on |= {name for name, value in service.get("environment", {}).items() if value is None}
    assert listed - passed_on == NOT_FOR_CONTAINERS.keys()
    # And .env.example lists every variable of the file.
    assert passed_on - OTEL_VARIABLES <= listed


def test_workers_of_the_next_version_differ_in_image_and_version_only() -> None:
    assert NEXT_VERSION.keys() == {"order-worker-next", "shipping-worker-next"}
    for name, service in NEXT_VERSION.items():
        now = SERVICES[name.removesuffix("-next")]
        different = {"profiles": None, "image": None, "environment": None, "build": None}
        assert service.definition | different == now.definition | different
        assert service.definition["image"] == "orders:2"
        assert service.environment == now.environment | {"WORKER_BUILD_ID": "2"}


def test_the_documented_upgrade_uses_existing_services() -> None:
    section = DEPLOYMENT_PAGE.read_text().partition("## A new version")[2].partition("\n## ")[0]
    started = [
        words
        for line in section.splitlines()
        if line.startswith(("docker compose", "NEXT_BUILD_ID")) and "-worker" in line
        for words in [line.split("docker compose ")[1].split()]
    ]
    assert len(started) >= 5
    for words in started:
        named = {word for word in words if "-worker" in word}
        assert named <= SERVICES.keys() | NEXT_VERSION.keys(), words
        assert ("next-version" in words) == bool(named & NEXT_VERSION.keys()), words


@each_lasting
def test_each_lasting_service_has_a_health_check(service: Service) -> None:
    assert service.health_check
    check = service.definition["healthcheck"]
    assert {"interval", "timeout", "retries", "start_period"} <= check.keys()
    if not service.is_ours:
        return
    # Without a package and without site, which cost more time than the check.
    assert service.health_check[:3] == ["python", "-S", "orchestrator/worker/liveness_file.py"]
    assert (PROJECT_ROOT / service.health_check[2]).is_file()
    target = service.health_check[3]
    if target.startswith("/"):
        assert target == service.environment["LIVENESS_FILE"]
        assert any(target.startswith(f"{each}/") for each in service.definition["tmpfs"])


def test_health_checks_use_existing_routes(tmp_path: Path) -> None:
    urls = {service.name: service.health_check[-1] for service in LASTING if service.is_ours}
    ports = {"api": "api", "dashboard": "dashboard", "locust-master": "locust"}
    defaults = Settings(_env_file=None)  # type: ignore[call-arg]
    for name, part in ports.items():
        assert urls[name].startswith(f"http://127.0.0.1:{defaults.port(part)}/"), name
        (published,) = SERVICES[name].definition["ports"]
        assert published == f"127.0.0.1:{defaults.port(part)}:{defaults.port(part)}"
    app = create_app(Settings(_env_file=None, orders_home=tmp_path))  # type: ignore[call-arg]
    assert "get" in app.openapi()["paths"]["/health"]
    assert urls["api"].endswith("/health")


def test_each_service_uses_the_user_with_least_privilege() -> None:
    for user, expected in USERS_OF.items():
        holders = {
            service.name
            for service in OURS
            if any(f"//{user}:" in value for value in service.environment.values())
        }
        assert holders == expected, user


def test_only_the_services_that_need_a_secret_have_it() -> None:
    holders = {
        name: {service.name for service in SERVICES.values() if secret in str(service.environment.values())}
        for name, secret in SECRETS.items()
    }
    assert holders["POSTGRES_PASSWORD"] == {"postgres", "postgres-roles"}
    assert holders["TEMPORAL_DB_PASSWORD"] == {"postgres-roles", "temporal-schema", "temporal"}
    assert holders["API_KEY"] == {"api-key"}
    assert holders["LOAD_TEST_KEY"] == {"load-test-key", "locust-worker"}
    assert holders["ORDERS_READER_PASSWORD"] == {"postgres-roles", "dashboard"}
    for service in SERVICES.values():
        assert not any(secret in " ".join(service.command) for secret in SECRETS.values())


def test_the_file_contains_no_secret() -> None:
    """Every variable with the name of a secret is required, and so is the password in each URL."""
    for service in yaml.safe_load(compose.text())["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|PWD|SECRET|TOKEN|API_KEY", name):
                assert value is None or re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
            if "://" in str(value) and "@" in value:
                assert re.fullmatch(r"\w+://\w+:\$\{\w+:\?[^}]+\}@[\w:/]+", value), name


def test_all_services_use_the_same_namespace() -> None:
    namespaces = {
        service.environment[name]
        for service in SERVICES.values()
        for name in ("TEMPORAL_NAMESPACE", "TEMPORAL_DEFAULT_NAMESPACE")
        if name in service.environment
    }
    assert len(namespaces) == 1
    config = compose.file_of_volume(
        SERVICES["temporal"], SERVICES["temporal"].environment["DYNAMIC_CONFIG_FILE_PATH"]
    )
    settings = yaml.safe_load(config.read_text())
    assert all(isinstance(each, list) and "value" in each[0] for each in settings.values())
    server = packaged_program("temporal")
    known = Path(server).read_bytes()
    assert all(name.encode() in known for name in settings)


def test_prometheus_scrapes_existing_services() -> None:
    config = PROJECT_ROOT / "orchestrator" / "monitoring" / "prometheus" / "containers.yml"
    sources = [
        source
        for job in yaml.safe_load(config.read_text())["scrape_configs"]
        for source in job["dns_sd_configs"]
    ]
    assert {name for source in sources for name in source["names"]} == {
        "api",
        "order-worker",
        "shipping-worker",
    }
    for source in sources:
        for name in source["names"]:
            environment = SERVICES[name].environment
            assert environment.get("WORKER_METRICS_PORT", "8000") == str(source["port"])
            assert environment["BIND_ADDRESS"] == "0.0.0.0"


def test_prometheus_has_a_key_for_jobs_with_authentication() -> None:
    config = PROJECT_ROOT / "orchestrator" / "monitoring" / "prometheus" / "containers.yml"
    for job in yaml.safe_load(config.read_text())["scrape_configs"]:
        names = {name for source in job["dns_sd_configs"] for name in source["names"]}
        is_closed = any(SERVICES[name].environment.get("AUTH") == "required" for name in names)
        assert is_closed == ("credentials_file" in job.get("authorization", {})), job["job_name"]


def test_the_schema_job_stops_at_the_first_error(tmp_path: Path) -> None:
    job = SERVICES["temporal-schema"]
    tool = tmp_path / "temporal-sql-tool"
    tool.write_text('#!/bin/sh\necho "$@" | tee -a calls\ntest "$*" != "$FAILS"\n')
    tool.chmod(0o755)

    def calls(fails: str = "") -> tuple[int, list[str]]:
        (tmp_path / "calls").unlink(missing_ok=True)
        shell, *words = job.command
        done = subprocess.run(
            [shell, *words],
            cwd=tmp_path,
            env={"PATH": f"{tmp_path}:{os.defpath}", "FAILS": fails},
            capture_output=True,
        )
        return done.returncode, (tmp_path / "calls").read_text().splitlines()

    versioned = "-d /etc/temporal/schema/postgresql/v12/{}/versioned"
    expected = [
        "--db temporal setup-schema -v 0.0",
        f"--db temporal update-schema {versioned.format('temporal')}",
        "--db temporal_visibility setup-schema -v 0.0",
        f"--db temporal_visibility update-schema {versioned.format('visibility')}",
    ]
    assert calls() == (0, expected)
    for number, each in enumerate(expected, start=1):
        assert calls(fails=each) == (1, expected[:number])
