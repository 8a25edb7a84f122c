"""The audit: compares the order database, the provider ledger and Temporal's workflows."""

from orchestrator.audit.report import AuditReport as AuditReport
from orchestrator.audit.report import audit as audit
