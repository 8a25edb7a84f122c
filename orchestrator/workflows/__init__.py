"""The business process, as Temporal workflows. Modules here import no I/O."""
