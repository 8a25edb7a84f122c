"""Start-up checks, the same for `orders up`, `orders migrate`, workers, the API and `orders doctor`.

A check returns findings (`findings`). `refuse` ends the start with their messages and exit code 2. A server
that is unavailable is not a finding: the check raises ServiceUnavailable, and a worker or the API waits
(`servers`).

- `configuration`: settings that contradict each other
- `database`: version, schema and clock of PostgreSQL
- `temporal`: version, namespace and clock of Temporal
- `task_queue_claims`: task queues that serve another order database
"""

from orchestrator.startup.findings import Finding, refuse

__all__ = ["Finding", "refuse"]
