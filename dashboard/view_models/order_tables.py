"""Data frames for tables: all orders, and the events, payment and shipment of one order."""

import json
from collections import Counter
from datetime import UTC, datetime

import pandas as pd

from db.currencies import major_units, money_text
from db.database import Row
from db.domain import OPEN_STATES, State
from db.read_models.order_search import OrderDetails
from loadtest.charts.order.time_parts import OrderTime

STATE_COLORS = {
    **dict.fromkeys((state.value.replace("_", " ") for state in OPEN_STATES), "blue"),
    State.COMPLETED.value: "green",
    State.CANCELLED.value: "orange",
    State.FAILED.value: "red",
    "compensating": "violet",
    "late": "red",
}
"""The colors of the chips in the state column, by their text."""

_ADDRESS = ("street", "street2", "city", "state", "zip", "country")


def orders(rows: list[Row], now: datetime) -> pd.DataFrame:
    """Return one row per order. `rows` come from `db.read_models.order_search.search`.

    `state` has a list of texts, each a key of STATE_COLORS.
    """
    return pd.DataFrame(
        [
            {
                "age": age((now - row["accepted_at"]).total_seconds()),
                "order": row["order_id"],
                "state": _chips(row),
                "reason": (row["abort_reason"] or "").replace("_", " "),
                "accepted": row["accepted_at"].astimezone(UTC).replace(tzinfo=None),
                "completion s": None if row["completion_ms"] is None else row["completion_ms"] / 1000,
                "attempts": row["attempts"],
                "amount": major_units(row["amount_cents"], row["currency"]),
                "currency": row["currency"],
                "run": row["run_id"] or "",
            }
            for row in rows
        ]
    )


def age(seconds: float) -> str:
    """Return a time in the past in its largest whole unit, for example "3 s ago"."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:,.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def _chips(row: Row) -> list[str]:
    is_compensating = row["abort_reason"] is not None and row["finished_at"] is None
    return [
        row["state"].replace("_", " "),
        *(["compensating"] if is_compensating else []),
        *(["late"] if row["is_late"] else []),
    ]


def events(details: OrderDetails) -> pd.DataFrame:
    """Return the events of an order, oldest first. `elapsed s` is the time since acceptance."""
    accepted_at = details.order["accepted_at"]
    return pd.DataFrame(
        [
            {
                "elapsed s": (event["at"] - accepted_at).total_seconds(),
                "event": event["kind"],
                "state": event["state"],
                "step": event["step"] or "",
                "attempt": event["attempt"],
                "outcome": event["outcome"] or "",
                "duration ms": event["duration_ms"],
                "worker": event["worker"] or "",
                "detail": json.dumps(event["detail"], ensure_ascii=False) if event["detail"] else "",
            }
            for event in details.events
        ]
    )


def comparison(time: OrderTime, median: Row) -> pd.DataFrame:
    """Compare the time of an order with the median order of its run, in seconds: one row per part, and the
    total."""
    rows = [*time.parts_ms.items(), ("total", time.total_ms)]
    others = {part: median[f"{part}_ms"] for part in time.parts_ms} | {"total": median["completion_ms"]}
    return pd.DataFrame(
        [
            {
                "": part,
                "this order": ms / 1000,
                "median order": others[part] / 1000,
                "difference": (ms - others[part]) / 1000,
            }
            for part, ms in rows
            if ms or others[part]
        ]
    )


def payment_and_shipment(details: OrderDetails) -> pd.DataFrame:
    """Compare the order database with the providers' records, one row per fact."""
    order = details.order
    database, providers = _order_database(order), _provider_records(order)
    return pd.DataFrame(
        [
            {"": fact, "Order database": database[fact], "Provider records": providers[fact]}
            for fact in database
        ]
    )


def _order_database(order: Row) -> dict[str, str]:
    payment, shipment = order["payment"] or {}, order["shipment"] or {}
    amount = money_text(payment.get("amount_cents", 0), order["currency"])
    status = payment.get("status")
    return {
        "charged": amount if status in ("charged", "refunded") else "",
        "refunded": amount if status == "refunded" else "",
        "packed": _yes(shipment.get("packed_at")),
        "dispatched": (shipment.get("tracking") or "yes") if shipment.get("dispatched_at") else "",
        "label": _address(shipment.get("label_address")),
        "recalled": _yes(shipment.get("recalled_at")),
    }


def _provider_records(order: Row) -> dict[str, str]:
    dispatched = [parcel for parcel in order["parcels"] if parcel["dispatched_at"]]
    # A recall before packing or dispatch only prevents it. The provider records it, but nothing was recalled.
    recalled = [
        record
        for record in (*order["parcels"], *order["packages"])
        if record["recalled_at"] and (record.get("packed_at") or record.get("dispatched_at"))
    ]
    return {
        "charged": _total(order, "charge"),
        "refunded": _total(order, "refund"),
        "packed": _yes(any(package["packed_at"] for package in order["packages"])),
        "dispatched": ", ".join(parcel["tracking"] or "yes" for parcel in dispatched),
        "label": ", ".join(_address(parcel["label_address"]) for parcel in dispatched),
        "recalled": _yes(recalled),
    }


def _yes(value: object) -> str:
    return "yes" if value else ""


def _total(order: Row, kind: str) -> str:
    """Return the sum of the entries of a kind in each of their currencies; "" without entries."""
    totals: Counter[str] = Counter()
    for entry in order["ledger"]:
        if entry["kind"] == kind:
            totals[entry["currency"]] += entry["amount_cents"]
    return ", ".join(money_text(cents, currency) for currency, cents in totals.items())


def _address(address: Row | None) -> str:
    return ", ".join(str(address[part]) for part in _ADDRESS if address.get(part)) if address else ""
