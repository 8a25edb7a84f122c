"""The state of an OrderWorkflow, as far as the workflow knows it."""

from temporalio.exceptions import ApplicationError

from db.domain import Reason, State, Step
from orchestrator.messages import ApproveOrder, DispatchFailed, RequestResult
from orchestrator.workflows.step_execution import StepObserver


class OrderProgress(StepObserver):
    """What has happened to an order. The workflow and its request handlers share one instance.

    The order database can be ahead of it: a workflow task that was lost with its worker has changed the
    database, but not this state. `sync_from` brings it up to date.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.open_error: ApplicationError | None = None
        self.is_in_review = False
        self.is_approved = False
        self.early_approval: ApproveOrder | None = None
        self.dispatch_failure: DispatchFailed | None = None
        self.abort_reason: Reason | None = None
        self.compensations: list[Step] = []
        self.current_step: Step | None = Step.RECEIVE
        self.completed_steps: list[Step] = []
        self.outcome: State | None = None

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
        if result.is_approved:
            self.is_approved = True

    def register_compensation(self, step: Step) -> None:
        """Add a step that an abort must run. Call it before the step that it compensates."""
        if step not in self.compensations:
            self.compensations.append(step)

    # --- Progress of a batch ------------------------------------------------------------------------

    def opened(self) -> None:
        self.is_open = True

    def approval_decided(self, result: RequestResult) -> None:
        self.sync_from(result)
        if self.is_approved:
            self.step_done(Step.REVIEW)

    def step_started(self, step: Step) -> None:
        self.current_step = step

    def step_done(self, step: Step) -> None:
        if step not in self.completed_steps:
            self.completed_steps.append(step)
