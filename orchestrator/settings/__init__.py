"""Settings, read once from the environment and `.env`, then passed to every component.

No other module reads settings from the environment, except the Temporal SDK: `temporalio.envconfig` reads
`TEMPORAL_API_KEY`, `TEMPORAL_TLS*` and profiles when a client connects to an external server.
`environment` handles variables of other programs.
"""

from orchestrator.settings.model import LOOPBACK, STACK_MARKER, Settings, environment_names

__all__ = ["LOOPBACK", "STACK_MARKER", "Settings", "environment_names"]
