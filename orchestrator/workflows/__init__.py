"""The business process, as Temporal workflows. Modules here import no I/O.

Workflow modules write `import orchestrator.messages as messages`: Temporal's sandbox does not pass through
`from orchestrator import messages`.
"""
