"""What customers and reviewers do: one Locust user class a scenario, over the REST API.

In an open loop one user of the class lives all the orders of its process, each in a greenlet of its own,
when the schedule says so. In a closed loop Locust's users live one order after another.
"""

import time
from typing import ClassVar

import gevent
from locust import User, task
from locust.env import Environment

from loadtest.generator.order_journey import OrderJourney
from loadtest.generator.order_sender import Generator
from loadtest.options import Arrivals, Scenario

CANCEL_SHARE = 0.10
ADDRESS_SHARE = 0.10
REVIEW_SHARE = 0.05
RESUBMIT_SHARE = 0.05

DOUBLED_SHARE = 0.5
"""Of the orders that are sent again: how many already while the first start is answered."""

ADDRESS_CHANGES = 3
"""How often an order's address changes at most."""

REVIEW_SECONDS = 4.0
"""A reviewer takes up to so long, which leaves the order its time to be carried out."""

IDLE_SECONDS = 0.5


class OrderUser(User):
    """Lives orders. A subclass says in `live` what is done with one."""

    abstract = True
    generator: ClassVar[Generator | None] = None
    """The generator of the run under way in this process."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._last_began = 0.0

    def live(self, order: OrderJourney) -> None:
        """What is done with an order besides waiting for its outcome."""
        order.start()

    @task
    def order_in_a_closed_loop(self) -> None:
        generator = OrderUser.generator
        if generator is None or generator.options.arrivals is not Arrivals.CLOSED:
            # The open loop sends by itself; this user is only Locust's own count.
            gevent.sleep(IDLE_SECONDS)
            return
        self._last_began = time.perf_counter()
        generator.live_one()

    def wait_time(self) -> float:
        """Seconds to pause: a user of a closed loop begins its orders at an even pace if it can."""
        generator = OrderUser.generator
        if generator is None or not self._last_began:
            return 0.0
        pause = self._last_began + generator.closed_pace_seconds() - time.perf_counter()
        return max(pause, 0.0)


class MixedUser(OrderUser):
    """The day as it comes: 70 % plain orders, 10 % cancelled at a random moment, 10 % with a new address,
    5 % for manual review (approved or rejected), 5 % sent again with the same and with other content.

    Proves that the limit and the books hold while everything that people do happens at once.
    """

    def live(self, order: OrderJourney) -> None:
        kind = order.random.random()
        if kind < CANCEL_SHARE:
            cancel_at_some_moment(order)
        elif kind < CANCEL_SHARE + ADDRESS_SHARE:
            change_address_at_some_moment(order)
        elif kind < CANCEL_SHARE + ADDRESS_SHARE + REVIEW_SHARE:
            review(order, approve_share=0.5)
        elif kind < CANCEL_SHARE + ADDRESS_SHARE + REVIEW_SHARE + RESUBMIT_SHARE:
            send_again(order)
        else:
            order.start()


class StartOnlyUser(OrderUser):
    """Starts, and nothing else.

    Proves how many orders the system carries to their outcome within the limit: the cleanest throughput.
    """


class CancelStormUser(OrderUser):
    """Every order is cancelled, at a uniformly random moment of an order's life: of the time that nine of ten
    orders of this run do not outlive, as far as it is known by then (5 s at first).

    Those that find the order already dispatched are answered "too late", and counted so.
    Proves that a cancellation is answered truthfully whatever it meets (an accepted one never completes, and
    is refunded and recalled), and that refunds stay within the limit too.
    """

    def live(self, order: OrderJourney) -> None:
        cancel_at_some_moment(order)


class AddressChurnUser(OrderUser):
    """Every order's address changes up to three times while it is carried out.

    Proves that the label carries the last accepted address, and that changes do not hold orders up.
    """

    def live(self, order: OrderJourney) -> None:
        if not order.start():
            return
        for _ in range(order.random.randint(1, ADDRESS_CHANGES)):
            order.wait_then(order.some_moment() / ADDRESS_CHANGES)
            order.change_address()


class ReviewDeskUser(OrderUser):
    """Every order waits for a person: seven of ten are approved, two rejected, one forgotten.

    Proves that nothing is charged before an approval or after a rejection, and that what nobody looked at is
    turned back in time. A slow reviewer costs an order its time, so this scenario is hard on the limit.
    """

    def live(self, order: OrderJourney) -> None:
        review(order, approve_share=0.7, forget_share=0.1)


class ResubmitUser(OrderUser):
    """Every order is sent again, with the same content and with other content; half of them already while
    the first start is being answered.

    Proves that one order id is one order and one charge: a repeat changes nothing, another order under the
    same id is refused.
    """

    def live(self, order: OrderJourney) -> None:
        send_again(order)


SCENARIOS: dict[Scenario, type[OrderUser]] = {
    Scenario.MIXED: MixedUser,
    Scenario.START_ONLY: StartOnlyUser,
    Scenario.CANCEL_STORM: CancelStormUser,
    Scenario.ADDRESS_CHURN: AddressChurnUser,
    Scenario.REVIEW_DESK: ReviewDeskUser,
    Scenario.RESUBMIT: ResubmitUser,
}


def cancel_at_some_moment(order: OrderJourney) -> None:
    if order.start():
        order.wait_then(order.some_moment())
        order.cancel()


def change_address_at_some_moment(order: OrderJourney) -> None:
    if order.start():
        order.wait_then(order.some_moment())
        order.change_address()


def review(order: OrderJourney, *, approve_share: float, forget_share: float = 0.0) -> None:
    if not order.start(review="manual"):
        return
    decision = order.random.random()
    if decision < forget_share:
        return
    order.wait_then(order.random.uniform(0, REVIEW_SECONDS))
    if decision < forget_share + approve_share:
        order.approve()
    else:
        order.reject()


def send_again(order: OrderJourney) -> None:
    is_doubled = order.random.random() < DOUBLED_SHARE
    if order.start_doubled() if is_doubled else order.start():
        order.start_again_the_same()
        order.wait_then(order.some_moment())
        order.start_again_the_same()
        order.start_again_otherwise()
