"""The progress of an order, as its workflow knows it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from temporalio.exceptions import ApplicationError

from db.domain import Reason, RequestResult, State, Step
from orchestrator.messages.activities import StepResult
from orchestrator.messages.requests import DispatchFailed


@dataclass
class OrderProgress:
    """The progress of one order. The workflow and its request handlers share one instance.

    The order database can be ahead of it: a workflow task that was lost with its worker has changed the
    database, but not this state. `sync_from` brings it up to date. `early_approval` is the reviewer who
    approved before the review began. `attempts` counts them by step, and `errors` has the last error of a
    gateway by step, as far as the activities returned it. `on_change` is called after each method.
    """

    on_change: Callable[[], None] = lambda: None

    is_open: bool = False
    open_error: ApplicationError | None = None
    is_in_review: bool = False
    is_approved: bool = False
    early_approval: str | None = None
    dispatch_failure: DispatchFailed | None = None
    abort_reason: Reason | None = None
    compensations: list[Step] = field(default_factory=list)
    current_step: Step | None = Step.RECEIVE
    completed_steps: list[Step] = field(default_factory=list)
    attempts: dict[Step, int] = field(default_factory=dict)
    errors: dict[Step, str] = field(default_factory=dict)
    outcome: State | None = None

    @property
    def is_aborted(self) -> bool:
        return self.abort_reason is not None

    @property
    def is_review_decided(self) -> bool:
        return self.is_approved or self.is_aborted

    def sync_from(self, result: RequestResult) -> None:
        """Take over the state of the order that the database returned with a decision."""
        if result.abort_reason is not None:
            self.abort_reason = result.abort_reason
        for step in result.compensations:
            self.register_compensation(step)
        if result.is_approved_and_open:
            self.is_approved = True
        self.on_change()

    def register_compensation(self, step: Step) -> None:
        """Add a step that an abort must run. Call it before the step that it compensates."""
        if step not in self.compensations:
            self.compensations.append(step)

    def step_started(self, step: Step) -> None:
        self.current_step = step
        self.on_change()

    def step_ended(self, step: Step, result: StepResult) -> None:
        """Take over the attempts and the last error of a step that ended with any status."""
        if result.attempts:
            self.attempts[step] = result.attempts
        if result.message:
            self.errors[step] = result.message
        self.on_change()

    def step_done(self, step: Step) -> None:
        if step not in self.completed_steps:
            self.completed_steps.append(step)
        self.on_change()

    def finish(self, outcome: State) -> None:
        self.outcome = outcome
        self.current_step = None
        self.on_change()
