"""The domain: states, steps, reasons and orders, as the order database stores them."""

import unicodedata
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from db.currencies import DEFAULT_CURRENCY

ORDER_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
MAX_ORDER_LINES = 100
MAX_QUANTITY = 1_000_000
MAX_UNIT_PRICE_CENTS = 100_000_000
MAX_TEXT_LENGTH = 200
MAX_NOTES_LENGTH = 2_000
QUICK_ATTEMPTS = 30
"""Attempts of a step with short delays; delays of up to 30 s follow. When 67 % of the calls fail,
they take about 5 s, and one step of 165,000 needs more."""

_COUNTRY_CODES = """
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT
BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH
ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT
HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS
LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI
NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG
SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG
UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
"""
COUNTRIES = frozenset(_COUNTRY_CODES.split())
"""The two-letter codes of ISO 3166-1."""

DEFAULT_COUNTRY = "US"

COUNTRIES_WITH_STATES = frozenset(("AU", "BR", "CA", "CN", "IN", "MX", "US"))
"""The countries in which carriers need a state and a postal code."""


class Step(StrEnum):
    """The business steps of an order. Recall and refund are compensations."""

    RECEIVE = "receive"
    VALIDATE = "validate"
    REVIEW = "review"
    CHARGE = "charge"
    PREPARE = "prepare"
    DISPATCH = "dispatch"
    RECALL = "recall"
    REFUND = "refund"
    FINISH = "finish"


COMPENSATIONS = (Step.RECALL, Step.REFUND)
GATEWAY_STEPS = (
    Step.RECEIVE,
    Step.VALIDATE,
    Step.CHARGE,
    Step.PREPARE,
    Step.DISPATCH,
    Step.RECALL,
    Step.REFUND,
)
"""The steps that call a gateway. Only these can fail, time out or lose the response."""

ADDRESS_STEPS = (Step.VALIDATE, Step.DISPATCH)
"""The steps that send the address to a gateway."""


class State(StrEnum):
    """The states of an order, in the order in which it passes them; the last three are outcomes."""

    RECEIVED = "received"
    VALIDATED = "validated"
    IN_REVIEW = "in_review"
    APPROVED = "approved"
    CHARGED = "charged"
    PREPARED = "prepared"
    DISPATCHED = "dispatched"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL_STATES

    def is_past(self, other: "State") -> bool:
        """Return whether this state is after `other` in the order of this class."""
        path = list(State)
        return path.index(self) > path.index(other)


TERMINAL_STATES = (State.COMPLETED, State.CANCELLED, State.FAILED)
OPEN_STATES = tuple(state for state in State if state not in TERMINAL_STATES)


class Reason(StrEnum):
    """Why an order was aborted."""

    CUSTOMER_CANCELLED = "customer_cancelled"
    REVIEW_REJECTED = "review_rejected"
    REVIEW_EXPIRED = "review_expired"
    PAYMENT_DECLINED = "payment_declined"
    VALIDATION_FAILED = "validation_failed"
    DEADLINE = "deadline"
    SHIPPING_FAILED = "shipping_failed"
    TERMINATED = "terminated"
    INTERNAL_ERROR = "internal_error"

    @property
    def outcome(self) -> State:
        """The outcome of an order that is aborted for this reason."""
        return State.CANCELLED if self in _CANCELLING_REASONS else State.FAILED


_CANCELLING_REASONS = (Reason.CUSTOMER_CANCELLED, Reason.REVIEW_REJECTED, Reason.REVIEW_EXPIRED)


class AttemptOutcome(StrEnum):
    """How one attempt ended, as seen by the worker. LOST: the worker died before it stored a result."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    DECLINED = "declined"
    LOST = "lost"


class ReviewMode(StrEnum):
    AUTO = "auto"
    MANUAL = "manual"


class ExecutionMode(StrEnum):
    """How a workflow runs the steps. FAST: in batches, as local activities. VISIBLE: each as a regular
    activity, which Temporal retries."""

    FAST = "fast"
    VISIBLE = "visible"


@dataclass(frozen=True)
class Address:
    """A postal address of any country, normalized to Unicode NFC. `country` is an ISO 3166 code."""

    street: str
    city: str
    state: str = ""
    zip: str = ""
    street2: str = ""
    country: str = DEFAULT_COUNTRY

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, unicodedata.normalize("NFC", value))
        object.__setattr__(self, "country", self.country.upper())

    def to_json(self) -> dict[str, str]:
        """Return the address as it is stored: without `street2` and `country` if they have their defaults."""
        defaults = {"street2": "", "country": DEFAULT_COUNTRY}
        return {name: value for name, value in vars(self).items() if value != defaults.get(name)}

    def field_errors(self) -> dict[str, str]:
        """Return a message for each invalid field. Only some countries need a state and a postal code."""
        optional = {"street2": self.street2, "state": self.state, "zip": self.zip}
        given = {name: value for name, value in optional.items() if value}
        errors = text_errors(street=self.street, city=self.city, **given)
        if self.country in COUNTRIES_WITH_STATES:
            errors |= {
                name: f"{name} is missing: an address in {self.country} needs it; "
                "for another country, set country"
                for name in ("state", "zip")
                if name not in given
            }
        if self.country not in COUNTRIES:
            errors["country"] = (
                "country must be a two-letter code of ISO 3166, for example US or SG "
                "(the United Kingdom is GB)"
            )
        return errors

    def validation_errors(self) -> list[str]:
        return list(self.field_errors().values())


@dataclass(frozen=True)
class Item:
    sku: str
    quantity: int
    unit_price_cents: int

    @property
    def price_cents(self) -> int:
        return self.quantity * self.unit_price_cents


SAMPLE_ITEMS = (Item(sku="SAMPLE-1", quantity=1, unit_price_cents=4_200),)
"""The items of an order that is started without items."""


@dataclass(frozen=True)
class TemporalNamespace:
    """A namespace of a Temporal cluster. The cluster keeps its id when its address changes."""

    cluster_id: str
    name: str


@dataclass(frozen=True)
class NewOrder:
    """An order as it is inserted. `fingerprint` is a digest of the customer's order; `database_id` is the
    order database of the API that started the order, None if it was started without the API; `payment_method`
    is the payment provider's id of the customer's card or account."""

    order_id: str
    workflow_run_id: str
    run_id: str | None
    fingerprint: str
    address: Address
    items: list[Item]
    amount_cents: int
    payment_id: str
    review: ReviewMode
    requested_at: datetime
    accepted_at: datetime
    deadline_at: datetime
    review_until: datetime
    start_request_id: str | None = None
    database_id: str | None = None
    currency: str = DEFAULT_CURRENCY
    execution: ExecutionMode = ExecutionMode.FAST
    payment_method: str | None = None


EARLY_APPROVAL = "the approval takes effect when the review begins"

ACCEPTED_MESSAGES = {
    "cancel_order": "the order is being cancelled",
    "reject_order": "the order is being cancelled",
    "approve_order": "the order is approved",
    "update_address": "the address is changed",
}
"""The messages of accepted requests."""


@dataclass(frozen=True)
class RequestResult:
    """The decision on a request: accepted or not. `message` says what changed or why not. `is_outdated`: the
    request was based on an address that has been replaced.

    `state`, `abort_reason` and `compensations` describe the order after the decision. `compensations` is
    empty unless the order is aborted; then it has the compensations of all steps that were attempted.
    """

    accepted: bool
    message: str
    state: State
    abort_reason: Reason | None = None
    compensations: list[Step] = field(default_factory=list)
    is_outdated: bool = False

    @property
    def is_approved_and_open(self) -> bool:
        """Whether the order has passed its review and is neither finished nor aborted."""
        is_past_review = self.state.is_past(State.IN_REVIEW) and not self.state.is_terminal
        return is_past_review and self.abort_reason is None


def text_error(name: str, value: str) -> str | None:
    """Return why the value of a text field is invalid, or None if it is valid."""
    if len(value) > MAX_TEXT_LENGTH:
        return f"{name} is longer than {MAX_TEXT_LENGTH} characters"
    categories = {unicodedata.category(character) for character in value}
    # Cc: control characters; Zl and Zp: line and paragraph separators; Cs: surrogates.
    if not categories.isdisjoint(("Cc", "Zl", "Zp")):
        return f"{name} contains control characters"
    if "Cs" in categories:
        return f"{name} is not valid Unicode text"
    if not value.strip():
        return f"{name} is empty"
    return None


def text_errors(**fields: str) -> dict[str, str]:
    """Return a message for each invalid text field."""
    return {name: error for name, value in fields.items() if (error := text_error(name, value))}
