"""The settings of every process, read once from the environment and `.env`, then passed down.

No other module reads the environment, except Temporal's own `temporalio.envconfig`, which reads
`TEMPORAL_API_KEY`, `TEMPORAL_TLS*` and profiles when a client connects to an external server.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from orchestrator.errors import SettingsError
from orchestrator.security.payload_keys import PayloadKeys

Port = int

STACK_MARKER = "ORDERS_STACK_HOME"
"""Environment variable that every process of a stack carries: whose it is, whatever its command line."""

LOOPBACK = "127.0.0.1"
MAX_SOCKET_PATH_LENGTH = 100
"""Unix socket paths end at 107 bytes on Linux and 103 on macOS; some are appended to."""

_PORT_OFFSETS = {
    "api": 0,
    "dashboard": 1,
    "locust": 2,
    "temporal": 3,
    "temporal_ui": 4,
    "temporal_metrics": 5,
    "temporal_http": 6,
}
_PORT_DEFAULTS = {
    "api": 8000,
    "dashboard": 8501,
    "locust": 8089,
    "temporal": 7233,
    "temporal_ui": 8233,
    "temporal_metrics": 7234,
    "temporal_http": 7243,
}


class _DotEnv(DotEnvSettingsSource):
    """`.env`, of which the environment has the last word, also that something is not set."""

    def _read_env_files(self) -> Mapping[str, str | None]:
        if STACK_MARKER in os.environ:
            # The stack has decided, and given each of its processes what it may know.
            return {}
        decided = {
            name.lower()
            for names in environment_names().values()
            if any(name in os.environ for name in names)
            for name in names
        }
        found = super()._read_env_files()
        return {name: value for name, value in found.items() if name.lower() not in decided}


class Settings(BaseSettings):
    """See `.env.example` for what each setting means. Raises SettingsError through `load`."""

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    orders_home: Path = Path("var")
    database_url: str | None = Field(default=None, validation_alias=AliasChoices("DATABASE_URL", "DB_URL"))
    database_reader_url: str | None = None

    temporal_address: str | None = None
    temporal_host: str | None = None
    temporal_profile: str | None = None
    temporal_config_file: Path | None = None
    given_temporal_namespace: str | None = Field(
        default=None, min_length=1, validation_alias=AliasChoices("TEMPORAL_NAMESPACE")
    )
    order_task_queue: str = Field(default="order-tq", min_length=1)
    shipping_task_queue: str = Field(default="shipping-tq", min_length=1)

    bind_address: str = Field(default=LOOPBACK, min_length=1)
    given_api_url: str | None = Field(
        default=None, validation_alias=AliasChoices("API_URL"), pattern=r"^https?://"
    )

    auth: Literal["auto", "required"] = "auto"
    api_key: SecretStr | None = None

    port_base: Port | None = Field(default=None, ge=1024, le=65000)
    api_port: Port | None = Field(default=None, ge=1, le=65535)
    dashboard_port: Port | None = Field(default=None, ge=1, le=65535)
    locust_port: Port | None = Field(default=None, ge=1, le=65535)
    temporal_port: Port | None = Field(default=None, ge=1, le=65535)
    temporal_ui_port: Port | None = Field(default=None, ge=1, le=65535)
    temporal_metrics_port: Port | None = Field(default=None, ge=1, le=65535)
    temporal_http_port: Port | None = Field(default=None, ge=1, le=65535)

    order_deadline_seconds: float = Field(
        default=15.0,
        gt=0,
        le=3600,
        validation_alias=AliasChoices("ORDER_DEADLINE_SECONDS", "ORDER_WORKFLOW_TIMEOUT_SECONDS"),
    )
    auto_review_seconds: float = Field(default=2.0, ge=0, le=3600)

    max_in_flight: int = Field(default=1_000, ge=1, le=1_000_000)
    start_rate: float = Field(default=100.0, gt=0, le=1_000_000)
    start_burst: int = Field(default=200, ge=1, le=1_000_000)

    order_workers: int = Field(default=2, ge=1, le=32)
    shipping_workers: int = Field(default=2, ge=1, le=32)

    worker_metrics_port: Port = Field(default=0, ge=0, le=65535)
    otel_exporter_otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://")
    liveness_file: Path | None = None

    events_keep_days: int | None = Field(default=None, ge=1, le=36_500)

    payload_keys: str | None = Field(default=None, repr=False, exclude=True)
    """Encrypts payloads. Excluded, so that no file of a stack keeps the key beside what it encrypts."""

    temporal_ui_origin: str | None = Field(default=None, pattern=r"^https?://[^/\s]+$")

    worker_deployment_name: str = Field(default="orders", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    worker_build_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,64}$")

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
        return init_settings, env_settings, env_file, file_secret_settings

    @classmethod
    def load(cls) -> "Settings":
        """Reads the environment. Raises SettingsError with one line a wrong setting."""
        try:
            return cls()
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            lines = [
                f"{'_'.join(str(part) for part in problem['loc']).upper()}: "
                f"{problem['msg'].removeprefix('Value error, ')}"
                for problem in problems
            ]
            raise SettingsError("\n".join(lines)) from None

    def apart(self, home: Path, *, port_base: Port | None = None, **others: object) -> "Settings":
        """The same orders and logs in a stack of its own, which shares nothing with another system: no
        server, no address, no key, no version and, with `port_base`, no port. `others` are more settings of
        that stack."""
        shared_with_nobody: dict[str, object] = {
            "orders_home": home,
            "database_url": None,
            "database_reader_url": None,
            "temporal_address": None,
            "temporal_host": None,
            "temporal_profile": None,
            "temporal_config_file": None,
            "temporal_ui_origin": None,
            "bind_address": LOOPBACK,
            "given_api_url": None,
            # Its books hold no key, so it must not ask for one, nor be asked with that of another system.
            "auth": "auto",
            "api_key": None,
            # No worker gets orders as long as nobody has made its version current.
            "worker_build_id": None,
        }
        if port_base is not None:
            shared_with_nobody |= {f"{part}_port": None for part in _PORT_OFFSETS}
            shared_with_nobody |= {"port_base": port_base, "worker_metrics_port": 0}
        carried = self.model_dump() | {"payload_keys": self.payload_keys}
        return Settings.model_validate(carried | shared_with_nobody | others)

    @property
    def api_key_text(self) -> str | None:
        """The key itself, for a header; everywhere else it hides itself."""
        return None if self.api_key is None else self.api_key.get_secret_value()

    @field_validator("payload_keys")
    @classmethod
    def _are_keys(cls, text: str | None) -> str | None:
        PayloadKeys.parse(text)
        return text

    @field_validator("database_url", "database_reader_url")
    @classmethod
    def _is_a_database(cls, text: str | None) -> str | None:
        """Refuses what libpq would quote when it complains: it may be the password, or a part of it."""
        if text is not None and not _names_a_database(text):
            raise ValueError(
                "this is no database URL like postgresql://USER:PASSWORD@HOST:5432/DATABASE; write each "
                "character of a password that is no letter, digit, '-', '.', '_' or '~' as %XX, '@' as %40"
            )
        return text

    @cached_property
    def home(self) -> Path:
        return self.orders_home.expanduser().resolve()

    @property
    def order_limit(self) -> timedelta:
        return timedelta(seconds=self.order_deadline_seconds)

    def port(self, part: str) -> Port:
        """The port of `api`, `dashboard`, `locust`, `temporal`, `temporal_ui`, `temporal_metrics` or
        `temporal_http`."""
        explicit: Port | None = getattr(self, f"{part}_port", None)
        if explicit is not None:
            return explicit
        if self.port_base is not None:
            return self.port_base + _PORT_OFFSETS[part]
        return _PORT_DEFAULTS[part]

    @property
    def near_address(self) -> str:
        """Where this machine reaches what listens on BIND_ADDRESS."""
        return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.bind_address, self.bind_address)

    def near_url(self, part: str) -> str:
        """Where this machine finds `api`, `dashboard` or `locust`."""
        address = f"[{self.near_address}]" if ":" in self.near_address else self.near_address
        return f"http://{address}:{self.port(part)}"

    @property
    def api_url(self) -> str:
        """Where the parts of this system that give orders find the API."""
        if self.given_api_url is not None:
            return self.given_api_url.rstrip("/")
        return self.near_url("api")

    @property
    def external_temporal_address(self) -> str | None:
        """host:port of a Temporal server that is not ours to start, or None for the embedded one."""
        if self.temporal_address is not None:
            return self.temporal_address
        if self.temporal_host is not None:
            # PORT_BASE moves the ports of this machine, not those of another.
            return f"{self.temporal_host}:{self.temporal_port or _PORT_DEFAULTS['temporal']}"
        return None

    @property
    def temporal_namespace(self) -> str:
        """The namespace, unless a profile of the Temporal SDK names another."""
        return self.given_temporal_namespace or "default"

    @property
    def temporal_target(self) -> str:
        return self.external_temporal_address or f"{LOOPBACK}:{self.port('temporal')}"

    @property
    def temporal_ui_origins(self) -> tuple[str, ...]:
        """The origins that pages of Temporal's UI have, as browsers name them."""
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
        """Where the stack's unix sockets are: below ORDERS_HOME, or in the temporary directory when
        that path is too long for a socket, or has a comma (libpq would take it for two hosts)."""
        below_home = self.home / "run"
        length = len(str(below_home / ".s.PGSQL.5432").encode())
        if length <= MAX_SOCKET_PATH_LENGTH and "," not in str(below_home):
            return below_home
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"orders-{digest}"

    @property
    def metrics_targets(self) -> Path:
        """Where workers whose port was chosen by the system tell it: a file each, as Prometheus reads it."""
        return self.home / "metrics"

    @property
    def order_database_url(self) -> str:
        """The libpq URL of the database that holds the books."""
        if self.database_url is not None:
            return self.database_url
        return f"postgresql://postgres@/orders?host={quote(str(self.socket_dir), safe='/')}&sslmode=disable"


def _names_a_database(text: str) -> bool:
    # Loaded only where a URL is given: every command reads the settings.
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(text)
    except ProgrammingError:
        return False
    # A password with '@' or '/' goes on in the host, the port or the name. A path is no part of one.
    host, port, database = (str(parts.get(name, "")) for name in ("host", "port", "dbname"))
    return (
        all(each.isdecimal() or not each for each in port.split(","))
        and "@" not in database
        and ("@" not in host or host.startswith("/"))
    )


def environment_names() -> dict[str, tuple[str, ...]]:
    """The environment variables of each field of `Settings`, the current name first."""
    return {
        name: tuple(str(choice) for choice in field.validation_alias.choices)
        if isinstance(field.validation_alias, AliasChoices)
        else (name.upper(),)
        for name, field in Settings.model_fields.items()
    }
