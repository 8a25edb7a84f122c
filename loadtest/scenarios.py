"""Scenarios: what customers and reviewers do, one Locust user class per scenario, over the REST API.

In an open loop one user object runs all orders of its process, each in its own greenlet, on the schedule. In
a closed loop each of Locust's users runs one order after another.
"""

import time
from typing import ClassVar

import gevent
from locust import User, task
from locust.env import Environment

from loadtest.generator.order_journey import OrderJourney
from loadtest.generator.order_sender import OrderSender
from loadtest.options import Arrivals, Scenario

CANCEL_SHARE = 0.10
ADDRESS_SHARE = 0.10
REVIEW_SHARE = 0.05
RESUBMIT_SHARE = 0.05

CONCURRENT_SHARE = 0.5
"""Share of resubmitted orders whose second start is sent while the first one is in flight."""

MAX_ADDRESS_CHANGES = 3

REVIEW_SECONDS = 4.0
"""Maximum time until a reviewer decides; it leaves most of the limit to the steps of the order."""

IDLE_SECONDS = 0.5


class OrderUser(User):
    """Runs orders. A subclass defines in `run_order` what happens to one."""

    abstract = True
    sender: ClassVar[OrderSender | None] = None
    """The sender of the current run in this process."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._last_began = 0.0

    def run_order(self, order: OrderJourney) -> None:
        """Send the requests about an order. The sender then waits for its outcome."""
        order.start()

    @task
    def order_in_a_closed_loop(self) -> None:
        sender = OrderUser.sender
        if sender is None or sender.options.arrivals is not Arrivals.CLOSED:
            # In an open loop the sender sends the orders, and Locust's users do nothing.
            gevent.sleep(IDLE_SECONDS)
            return
        self._last_began = time.perf_counter()
        sender.run_closed_order()

    def wait_time(self) -> float:
        """Return the seconds to pause, so that a user of a closed loop starts orders at an even rate."""
        sender = OrderUser.sender
        if sender is None or not self._last_began:
            return 0.0
        pause = self._last_began + sender.closed_interval_seconds() - time.perf_counter()
        return max(pause, 0.0)


class MixedUser(OrderUser):
    """70 % plain orders, 10 % cancelled, 10 % with a new address, 5 % with manual review (approved or
    rejected), 5 % started again with the same and with other content; each at a random moment.

    Proves that the limit and the invariants hold while all kinds of requests happen at the same time.
    """

    def run_order(self, order: OrderJourney) -> None:
        kind = order.random.random()
        if kind < CANCEL_SHARE:
            cancel_at_random_moment(order)
        elif kind < CANCEL_SHARE + ADDRESS_SHARE:
            change_address_at_random_moment(order)
        elif kind < CANCEL_SHARE + ADDRESS_SHARE + REVIEW_SHARE:
            review(order, approve_share=0.5)
        elif kind < CANCEL_SHARE + ADDRESS_SHARE + REVIEW_SHARE + RESUBMIT_SHARE:
            resubmit(order)
        else:
            order.start()


class StartOnlyUser(OrderUser):
    """Orders are started, without further requests. Proves the throughput within the limit."""


class CancelStormUser(OrderUser):
    """Every order is cancelled at a random moment within the usual completion time of an order.

    The API rejects a cancellation after dispatch as too late, and the run counts it. Proves that an order
    whose cancellation was accepted never completes, and that refunds are within the limit too.
    """

    def run_order(self, order: OrderJourney) -> None:
        cancel_at_random_moment(order)


class AddressChurnUser(OrderUser):
    """The address of every order changes up to three times.

    Proves that the label has the last accepted address, and that changes do not delay orders.
    """

    def run_order(self, order: OrderJourney) -> None:
        if not order.start():
            return
        for _ in range(order.random.randint(1, MAX_ADDRESS_CHANGES)):
            order.wait(order.random_moment() / MAX_ADDRESS_CHANGES)
            order.change_address()


class ReviewDeskUser(OrderUser):
    """Every order needs a manual review: 70 % are approved, 20 % rejected, 10 % never reviewed.

    Proves that nothing is charged before an approval or after a rejection, and that orders without a review
    are cancelled in time. The review time counts towards the limit, so this scenario is the hardest one.
    """

    def run_order(self, order: OrderJourney) -> None:
        review(order, approve_share=0.7, forget_share=0.1)


class ResubmitUser(OrderUser):
    """Every order is started again with the same and with other content, half of them concurrently.

    Proves that one order id is one order and one charge: an identical start changes nothing, and a start with
    other content is refused.
    """

    def run_order(self, order: OrderJourney) -> None:
        resubmit(order)


SCENARIOS: dict[Scenario, type[OrderUser]] = {
    Scenario.MIXED: MixedUser,
    Scenario.START_ONLY: StartOnlyUser,
    Scenario.CANCEL_STORM: CancelStormUser,
    Scenario.ADDRESS_CHURN: AddressChurnUser,
    Scenario.REVIEW_DESK: ReviewDeskUser,
    Scenario.RESUBMIT: ResubmitUser,
}


def cancel_at_random_moment(order: OrderJourney) -> None:
    if order.start():
        order.wait(order.random_moment())
        order.cancel()


def change_address_at_random_moment(order: OrderJourney) -> None:
    if order.start():
        order.wait(order.random_moment())
        order.change_address()


def review(order: OrderJourney, *, approve_share: float, forget_share: float = 0.0) -> None:
    if not order.start(review="manual"):
        return
    decision = order.random.random()
    if decision < forget_share:
        return
    order.wait(order.random.uniform(0, REVIEW_SECONDS))
    if decision < forget_share + approve_share:
        order.approve()
    else:
        order.reject()


def resubmit(order: OrderJourney) -> None:
    is_concurrent = order.random.random() < CONCURRENT_SHARE
    if order.start_twice_concurrently() if is_concurrent else order.start():
        order.repeat_start()
        order.wait(order.random_moment())
        order.repeat_start()
        order.start_with_other_content()
