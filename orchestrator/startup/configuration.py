"""Settings that contradict each other."""

from collections.abc import Iterator
from datetime import UTC, datetime

from db.domain import Step
from orchestrator.deadlines import FINISH_NEED, SIMULATED_NEEDS, OrderDeadlines
from orchestrator.errors import SettingsError
from orchestrator.gateways.registry import time_needs
from orchestrator.messages.ids import compensation_task_queue
from orchestrator.settings import Settings, environment_names
from orchestrator.settings.environment import service_links
from orchestrator.startup.findings import Finding
from orchestrator.startup.task_queue_claims import CLAIM_QUEUE_PREFIX
from orchestrator.startup.temporal import CLOCK_QUEUE

RESERVED_QUEUE_PREFIXES = ("/_sys/", "__temporal", "temporal-sys-", CLOCK_QUEUE, CLAIM_QUEUE_PREFIX)
"""The server rejects names with the first prefix. Server and SDKs use the next two for internal task queues,
and the start-up checks the last two."""


_DEFAULT_REVIEW_SECONDS = Settings.model_fields["auto_review_seconds"].default
"""The workflow shortens a review that does not fit. That is no error if only the limit was set."""


def configuration_findings(settings: Settings) -> Iterator[Finding]:
    """Check the server's address, task queues, deadlines and variables that Kubernetes sets."""
    links = service_links(name for names in environment_names().values() for name in names)
    if links:
        yield Finding(
            "service-links",
            f"{', '.join(links)}: ignored, because Kubernetes sets it for a service of this name.",
            "Set enableServiceLinks: false in the specification of the pod.",
            "notice",
        )
    yield from _address_findings(settings)
    yield from _queue_findings(settings)
    yield from _deadline_findings(settings)


def _address_findings(settings: Settings) -> Iterator[Finding]:
    if settings.temporal_address is None or settings.temporal_host is None:
        return
    older = settings.model_copy(update={"temporal_address": None}).external_temporal_address
    if settings.temporal_address != older:
        yield Finding(
            "temporal-addresses-differ",
            f"TEMPORAL_ADDRESS is {settings.temporal_address}, but TEMPORAL_HOST and TEMPORAL_PORT, its "
            f"older names, say {older}.",
            "Unset TEMPORAL_HOST.",
        )


def _queue_findings(settings: Settings) -> Iterator[Finding]:
    queues = {
        "ORDER_TASK_QUEUE": settings.order_task_queue,
        "SHIPPING_TASK_QUEUE": settings.shipping_task_queue,
    }
    compensation_queue = compensation_task_queue(settings.order_task_queue)
    if settings.shipping_task_queue == compensation_queue:
        yield Finding(
            "task-queues-equal",
            f"SHIPPING_TASK_QUEUE is {compensation_queue}, which is the task queue of the compensations: "
            "order workers would receive tasks that only shipping workers can process.",
            "Set it to another name.",
        )
    if settings.order_task_queue == settings.shipping_task_queue:
        yield Finding(
            "task-queues-equal",
            f"ORDER_TASK_QUEUE and SHIPPING_TASK_QUEUE are both {settings.order_task_queue}: order workers "
            "would receive tasks that only shipping workers can process.",
            "Set them to different names.",
        )
    for setting, queue in queues.items():
        if queue.startswith(RESERVED_QUEUE_PREFIXES):
            yield Finding(
                "task-queue-reserved",
                f"{setting} is {queue}: names that begin with {', '.join(RESERVED_QUEUE_PREFIXES)} are "
                "reserved.",
                "Set it to another name.",
            )


def gateway_findings(settings: Settings) -> Iterator[Finding]:
    """Check, for processes that call or audit gateways, that each service has a usable gateway, and that the
    time needs fit into the limit."""
    try:
        needs = time_needs(settings)
    except SettingsError as error:
        yield Finding("gateways", str(error), "docs/reference/gateways.md lists the settings.")
        return
    # The needs of the simulated gateways shrink with the limit.
    if needs != SIMULATED_NEEDS and needs.total_seconds > settings.order_deadline_seconds:
        steps = ", ".join(f"{step} {seconds:g}" for step, seconds in needs.steps.items() if seconds)
        other = (
            f"compensation {needs.compensation:g}, finish {FINISH_NEED.total_seconds():g}, "
            f"last attempt {needs.longest_attempt:g}"
        )
        yield Finding(
            "needs-too-long",
            f"The gateways need {needs.total_seconds:g} s ({steps}, {other}), more than "
            f"ORDER_DEADLINE_SECONDS ({settings.order_deadline_seconds:g}).",
            "Lower need, compensation or timeout in PAYMENT_CALLS, WAREHOUSE_CALLS or CARRIER_CALLS, or "
            "raise ORDER_DEADLINE_SECONDS.",
        )


def _deadline_findings(settings: Settings) -> Iterator[Finding]:
    accepted_at = datetime(2000, 1, 1, tzinfo=UTC)
    try:
        deadlines = OrderDeadlines(accepted_at, settings.order_limit, time_needs(settings))
    except SettingsError:
        return  # A finding of the gateways.
    limit = f"ORDER_DEADLINE_SECONDS ({settings.order_deadline_seconds:g})"
    room = (deadlines.not_after(Step.REVIEW) - accepted_at).total_seconds()
    if deadlines.not_after(Step.RECEIVE) <= accepted_at:
        yield Finding(
            "limit-too-short",
            f"{limit} leaves no time for the steps of an order.",
            "Set it to at least 2.",
        )
    elif settings.auto_review_seconds >= room and settings.auto_review_seconds != _DEFAULT_REVIEW_SECONDS:
        yield Finding(
            "review-too-long",
            f"AUTO_REVIEW_SECONDS ({settings.auto_review_seconds:g}) does not fit into {limit}: a review may "
            f"take less than {room:.1f} s.",
            "Lower AUTO_REVIEW_SECONDS, or raise ORDER_DEADLINE_SECONDS.",
        )
