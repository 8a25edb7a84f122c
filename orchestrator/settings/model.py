"""The settings, their defaults and their checks."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from db.domain import ExecutionMode
from orchestrator.errors import SettingsError
from orchestrator.security.key_hashing import is_token
from orchestrator.security.payload_keys import PayloadKeys
from orchestrator.settings.api_url import credentials_problem
from orchestrator.settings.environment import is_service_link, isolate_process, reject_conflicts
from orchestrator.settings.gateways import SIMULATED, GatewaySettings

_URL = "a URL like http://HOST:PORT"
_NAME = "1 to 64 letters, digits, '-', '_'"

Port = Annotated[int, Field(ge=1, le=65535)]

STACK_MARKER = "ORDERS_STACK_HOME"
"""Environment variable of every process of a stack: identifies the stack that started it."""

LOOPBACK = "127.0.0.1"
MAX_SOCKET_PATH_LENGTH = 100
"""The limit is 107 bytes on Linux and 103 on macOS, and some programs append to the path."""

_DEFAULT_PORTS = {
    "api": 8000,
    "dashboard": 8501,
    "locust": 8089,
    "temporal": 7233,
    "temporal_ui": 8233,
    "temporal_metrics": 7234,
    "temporal_http": 7243,
}
"""In the order of their offsets from PORT_BASE."""


class _Environment(EnvSettingsSource):
    """Reads the environment without the ports that are service links of Kubernetes."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {
            name: value
            for name, value in super()._load_env_vars().items()
            if not is_service_link(name, value)
        }


class _DotEnv(DotEnvSettingsSource):
    """Reads `.env`. A variable in the environment overrides it, under any of its names and with an empty
    value."""

    def _read_env_files(self) -> Mapping[str, str | None]:
        if STACK_MARKER in os.environ:
            # `up` passes to each process the settings that it needs.
            return {}
        overridden = {
            name.lower()
            for names in environment_names().values()
            if any(name in os.environ and not is_service_link(name, os.environ[name]) for name in names)
            for name in names
        }
        values = super()._read_env_files()
        for names in environment_names().values():
            reject_conflicts({name.upper(): value for name, value in values.items()}, names)
        return {name: value for name, value in values.items() if name.lower() not in overridden}


class Settings(GatewaySettings):
    """`.env.example` describes each setting."""

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        frozen=True,
        str_strip_whitespace=True,
        env_ignore_empty=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    orders_home: Path = Path("var")
    database_url: str | None = Field(
        default=None, repr=False, validation_alias=AliasChoices("DATABASE_URL", "DB_URL")
    )
    database_reader_url: str | None = Field(default=None, repr=False)
    database_prepared_statements: bool | None = None

    temporal_address: str | None = Field(
        default=None, pattern=r"^[^/\s]+:[0-9]+$", description="HOST:PORT, for example localhost:7233"
    )
    temporal_host: str | None = None
    temporal_profile: str | None = None
    temporal_config_file: Path | None = None
    configured_temporal_namespace: str | None = Field(
        default=None, min_length=1, validation_alias=AliasChoices("TEMPORAL_NAMESPACE")
    )
    order_task_queue: str = Field(default="order-tq", min_length=1, max_length=1_000)
    shipping_task_queue: str = Field(default="shipping-tq", min_length=1, max_length=1_000)

    bind_address: str = Field(default=LOOPBACK, min_length=1)
    configured_api_url: str | None = Field(
        default=None, validation_alias=AliasChoices("API_URL"), pattern=r"^https?://", description=_URL
    )

    auth: Literal["auto", "required"] = "auto"
    api_key: SecretStr | None = Field(default=None, exclude=True)
    """Excluded from dumps like `payload_keys`: a stack does not have the key of its caller."""

    port_base: int | None = Field(default=None, ge=1024, le=65000)
    api_port: Port | None = None
    dashboard_port: Port | None = None
    locust_port: Port | None = None
    temporal_port: Port | None = None
    temporal_ui_port: Port | None = None
    temporal_metrics_port: Port | None = None
    temporal_http_port: Port | None = None

    order_deadline_seconds: float = Field(
        default=15.0,
        gt=0,
        le=3600,
        validation_alias=AliasChoices("ORDER_DEADLINE_SECONDS", "ORDER_WORKFLOW_TIMEOUT_SECONDS"),
    )
    auto_review_seconds: float = Field(default=2.0, ge=0, le=3600)
    order_execution: ExecutionMode = ExecutionMode.FAST

    max_in_flight: int = Field(default=100_000, ge=1, le=1_000_000)

    order_workers: int = Field(default=2, ge=1, le=32)
    shipping_workers: int = Field(default=2, ge=1, le=32)

    reconciler_max_orphans: int = Field(default=20, ge=0, le=1_000_000)

    worker_metrics_port: int = Field(default=0, ge=0, le=65_000)
    otel_exporter_otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://", description=_URL)
    liveness_file: Path | None = None

    events_keep_days: int | None = Field(default=None, ge=1, le=36_500)

    payload_keys: str | None = Field(default=None, repr=False, exclude=True)
    """Excluded from dumps, so that no file of a stack contains the keys next to the encrypted data."""

    temporal_ui_origin: str | None = Field(default=None, pattern=r"^https?://[^/\s]+$", description=_URL)

    dashboard_base_path: str = Field(
        default="", pattern=r"^(/[A-Za-z0-9._~-]+)*/?$", description="a path like /dashboard"
    )

    worker_deployment_name: str = Field(default="orders", pattern=r"^[A-Za-z0-9_-]{1,64}$", description=_NAME)
    worker_build_id: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]{1,64}$", description=f"{_NAME}, '.'"
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] = "json"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        env_file = _DotEnv(settings_cls, env_file=dotenv_settings.env_file)
        return init_settings, _Environment(env_settings.settings_cls), env_file, file_secret_settings

    @classmethod
    def load(cls) -> "Settings":
        """Read the environment and `.env`. Raises SettingsError with one line per invalid setting.

        Removes libpq's variables from the environment of this process.
        """
        isolate_process()
        for names in environment_names().values():
            reject_conflicts(os.environ, names)
        try:
            return cls()
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            raise SettingsError("\n".join(cls._message(problem) for problem in problems)) from None

    @classmethod
    def _message(cls, problem: ErrorDetails) -> str:
        name = "_".join(str(part) for part in problem["loc"]).upper()
        if problem["type"] != "string_pattern_mismatch":
            return f"{name}: {problem['msg'].removeprefix('Value error, ')}"
        fields = {each: field for field, names in environment_names().items() for each in names}
        return f"{name}: must be {cls.model_fields[fields[name]].description}"

    def isolated(self, home: Path, *, port_base: int | None = None, **others: object) -> "Settings":
        """Return these settings for a separate stack with its own servers, addresses, keys, worker version
        and, with `port_base`, ports. `others` override more settings."""
        separate: dict[str, object] = {
            "orders_home": home,
            "database_url": None,
            "database_reader_url": None,
            "database_prepared_statements": None,
            "temporal_address": None,
            "temporal_host": None,
            "temporal_profile": None,
            "temporal_config_file": None,
            "temporal_ui_origin": None,
            "bind_address": LOOPBACK,
            "configured_api_url": None,
            # The new database has no key, so the stack can neither require one nor send one.
            "auth": "auto",
            "api_key": None,
            "payment_gateway": SIMULATED,
            "warehouse_gateway": SIMULATED,
            "carrier_gateway": SIMULATED,
            "payment_calls": None,
            "warehouse_calls": None,
            "carrier_calls": None,
            # A versioned worker receives no orders until its version is current.
            "worker_build_id": None,
        }
        if port_base is not None:
            separate |= {f"{component}_port": None for component in _DEFAULT_PORTS}
            separate |= {"port_base": port_base, "worker_metrics_port": 0}
        kept = self.model_dump() | {"payload_keys": self.payload_keys}
        return Settings.model_validate(kept | separate | others)

    @property
    def api_key_text(self) -> str | None:
        """The API key as plain text, for a header."""
        return None if self.api_key is None else self.api_key.get_secret_value()

    @field_validator("dashboard_base_path")
    @classmethod
    def _without_trailing_slash(cls, path: str) -> str:
        return path.rstrip("/")

    @field_validator("api_key", mode="before")
    @classmethod
    def _check_api_key(cls, value: object) -> object:
        """Strip the line end of a key from a file. Reject text that cannot be a key; the message does not
        quote it."""
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(text, str):
            return value
        if not (text := text.strip()):
            return None
        if not is_token(text):
            raise ValueError(
                "it contains a space, a quotation mark or another character that no key has; set it to the "
                "key as `orders keys add` printed it, without quotation marks"
            )
        return text

    @field_validator("configured_api_url")
    @classmethod
    def _check_api_url(cls, url: str | None) -> str | None:
        """Reject a URL with a user or a password: messages print it."""
        if url is not None and (problem := credentials_problem(url)) is not None:
            raise ValueError(problem)
        return url

    @field_validator("payload_keys")
    @classmethod
    def _check_payload_keys(cls, text: str | None) -> str | None:
        PayloadKeys.parse(text)
        return text

    @field_validator("database_url", "database_reader_url")
    @classmethod
    def _check_database_url(cls, text: str | None) -> str | None:
        """Reject a malformed URL here: libpq's error message would quote parts of the password."""
        if text is not None:
            # A late import: every command loads the settings, and few need psycopg.
            from orchestrator.settings.database_url import problem_of

            text = text.strip()
            problem = problem_of(text)
            if problem is not None:
                raise ValueError(problem)
        return text

    @cached_property
    def home(self) -> Path:
        return self.orders_home.expanduser().resolve()

    @property
    def order_limit(self) -> timedelta:
        return timedelta(seconds=self.order_deadline_seconds)

    def port(self, component: str) -> int:
        """Return the port of a component: `api`, `dashboard`, `locust`, `temporal`, `temporal_ui`,
        `temporal_metrics` or `temporal_http`."""
        explicit: int | None = getattr(self, f"{component}_port", None)
        if explicit is not None:
            return explicit
        if self.port_base is not None:
            return self.port_base + list(_DEFAULT_PORTS).index(component)
        return _DEFAULT_PORTS[component]

    @property
    def local_address(self) -> str:
        """The address at which this machine reaches components that listen on BIND_ADDRESS."""
        return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.bind_address, self.bind_address)

    def local_url(self, component: str) -> str:
        """Return the URL of `api`, `dashboard` or `locust` on this machine."""
        address = f"[{self.local_address}]" if ":" in self.local_address else self.local_address
        return f"http://{address}:{self.port(component)}"

    @property
    def api_url(self) -> str:
        """The URL of the API for command line, dashboard and load tests."""
        if self.configured_api_url is not None:
            return self.configured_api_url.rstrip("/")
        return self.local_url("api")

    @property
    def external_temporal_address(self) -> str | None:
        """host:port of an external Temporal server, or None for the embedded one."""
        if self.temporal_address is not None:
            return self.temporal_address
        if self.temporal_host is not None:
            # PORT_BASE does not change the port of another machine.
            return f"{self.temporal_host}:{self.temporal_port or _DEFAULT_PORTS['temporal']}"
        return None

    @property
    def temporal_namespace(self) -> str:
        """The namespace. A profile of the Temporal SDK can override it."""
        return self.configured_temporal_namespace or "default"

    @property
    def temporal_target(self) -> str:
        return self.external_temporal_address or f"{LOOPBACK}:{self.port('temporal')}"

    @property
    def temporal_ui_origins(self) -> tuple[str, ...]:
        """The values of the Origin header in requests of the Temporal UI."""
        if self.temporal_ui_origin is not None:
            return (self.temporal_ui_origin,)
        port = self.port("temporal_ui")
        return (f"http://127.0.0.1:{port}", f"http://localhost:{port}")

    @property
    def uses_embedded_temporal(self) -> bool:
        return (
            self.external_temporal_address is None
            and self.temporal_profile is None
            and self.temporal_config_file is None
        )

    @property
    def uses_embedded_postgres(self) -> bool:
        return self.database_url is None

    @cached_property
    def socket_dir(self) -> Path:
        """The directory of the stack's Unix sockets: below ORDERS_HOME, or in the temporary directory if that
        path is too long for a socket or contains a comma, which separates hosts in libpq."""
        below_home = self.home / "run"
        length = len(str(below_home / ".s.PGSQL.5432").encode())
        if length <= MAX_SOCKET_PATH_LENGTH and "," not in str(below_home):
            return below_home
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"orders-{digest}"

    @property
    def metrics_targets(self) -> Path:
        """The directory of Prometheus target files of workers whose metrics port the system has chosen."""
        return self.home / "metrics"

    @property
    def order_database_url(self) -> str:
        """The resolved URL of the order database: DATABASE_URL, or the embedded PostgreSQL."""
        if self.database_url is not None:
            return self.database_url
        return f"postgresql://postgres@/orders?host={quote(str(self.socket_dir), safe='/')}&sslmode=disable"


def environment_names() -> dict[str, tuple[str, ...]]:
    """Return the environment variables of each field of `Settings`, the current name first."""
    return {
        name: tuple(str(choice) for choice in field.validation_alias.choices)
        if isinstance(field.validation_alias, AliasChoices)
        else (name.upper(),)
        for name, field in Settings.model_fields.items()
    }
