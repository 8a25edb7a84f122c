"""`.env.example` lists every setting, and nothing that is none."""

import re
from pathlib import Path

from orchestrator.settings import Settings, environment_names

EXAMPLE = Path(__file__).parents[2] / ".env.example"
COMPOSE_FILE = EXAMPLE.with_name("docker-compose.yml")


def test_example_lists_exactly_the_settings() -> None:
    listed = set(re.findall(r"^#([A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE))
    expected = {names[0] for names in environment_names().values()}
    # An older name, mentioned where its successor is listed.
    expected.remove("TEMPORAL_HOST")
    # And what others read: the Temporal SDK, and docker-compose.yml.
    others = {name for name in listed if name.startswith(("TEMPORAL_TLS", "TEMPORAL_API_KEY"))}
    others |= set(re.findall(r"\$\{(\w+)", COMPOSE_FILE.read_text()))
    assert listed == expected | others


def test_example_shows_the_defaults(tmp_path: Path) -> None:
    values = dict(re.findall(r"^#([A-Z_]+)=(\S*)", EXAMPLE.read_text(), re.MULTILINE))
    defaults = Settings(_env_file=None, _env_prefix="NOTHING_HERE_")  # type: ignore[call-arg]
    for name in ("TEMPORAL_NAMESPACE", "ORDER_TASK_QUEUE", "SHIPPING_TASK_QUEUE", "LOG_LEVEL", "LOG_FORMAT"):
        assert values[name] == getattr(defaults, name.lower())
    for name in ("ORDER_DEADLINE_SECONDS", "AUTO_REVIEW_SECONDS", "ORDER_WORKERS", "SHIPPING_WORKERS"):
        assert float(values[name]) == getattr(defaults, name.lower())
    for part in (
        "api",
        "dashboard",
        "locust",
        "temporal",
        "temporal_ui",
        "temporal_metrics",
        "temporal_http",
    ):
        assert int(values[f"{part.upper()}_PORT"]) == defaults.port(part)
