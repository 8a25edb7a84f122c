"""`.env.example` lists every setting with its default, and nothing else."""

import re
from pathlib import Path

import pytest

from orchestrator.settings import Settings, environment_names

EXAMPLE = Path(__file__).parents[2] / ".env.example"
COMPOSE_FILE = EXAMPLE.with_name("docker-compose.yml")
OLDER_NAMES = {"TEMPORAL_HOST"}


def listed_values() -> dict[str, str]:
    return dict(re.findall(r"^#([A-Z_]+)=(\S*)", EXAMPLE.read_text(), re.MULTILINE))


def test_the_example_lists_exactly_the_settings() -> None:
    listed = set(listed_values())
    settings = {names[0] for names in environment_names().values()} - OLDER_NAMES
    read_by_temporal = {name for name in listed if name.startswith(("TEMPORAL_TLS", "TEMPORAL_API_KEY"))}
    read_by_compose = set(re.findall(r"\$\{(\w+)", COMPOSE_FILE.read_text()))
    assert listed == settings | read_by_temporal | read_by_compose


def test_the_example_mentions_every_older_name() -> None:
    older = {name for names in environment_names().values() for name in names[1:]} | OLDER_NAMES
    text = EXAMPLE.read_text()
    assert [name for name in sorted(older) if not re.search(rf"Older names?: [^)]*\b{name}\b", text)] == []


def test_every_setting_has_a_description() -> None:
    """A comment above the setting, or above the block of settings that it belongs to."""
    for block in re.split(r"\n\n", EXAMPLE.read_text()):
        if re.search(r"^#[A-Z_]+=", block, re.MULTILINE):
            assert block.startswith("# "), block


@pytest.mark.parametrize("name", [
    "TEMPORAL_NAMESPACE", "ORDER_TASK_QUEUE", "SHIPPING_TASK_QUEUE", "LOG_LEVEL", "LOG_FORMAT",
    "BIND_ADDRESS", "AUTH", "ORDERS_HOME", "ORDER_DEADLINE_SECONDS", "AUTO_REVIEW_SECONDS",
    "ORDER_WORKERS", "SHIPPING_WORKERS", "MAX_IN_FLIGHT",
    "WORKER_METRICS_PORT", "WORKER_DEPLOYMENT_NAME",
])  # fmt: skip
def test_the_example_shows_the_default(name: str) -> None:
    defaults = Settings(_env_file=None)  # type: ignore[call-arg]
    shown, default = listed_values()[name], getattr(defaults, name.lower())
    assert (float(shown) if isinstance(default, int | float) else shown) == (
        default if isinstance(default, int | float) else str(default)
    )


@pytest.mark.parametrize(
    "component",
    ["api", "dashboard", "locust", "temporal", "temporal_ui", "temporal_metrics", "temporal_http"],
)
def test_the_example_shows_the_default_port(component: str) -> None:
    defaults = Settings(_env_file=None)  # type: ignore[call-arg]
    assert int(listed_values()[f"{component.upper()}_PORT"]) == defaults.port(component)
