"""Rows of the books as tables to look at."""

import json
from datetime import UTC

import pandas as pd

from db.database import Row
from db.read_models.order_search import OrderDetails

_ORDERS = ("order", "state", "reason", "accepted", "completion s", "in time", "attempts", "amount", "run")


def orders(rows: list[Row]) -> pd.DataFrame:
    """Orders in brief. Rows as of `db.read_models.order_search.search`; `completion s` is in seconds, `amount` in money."""
    return pd.DataFrame(
        [
            {
                "order": row["order_id"],
                "state": row["state"],
                "reason": row["abort_reason"] or "",
                "accepted": row["accepted_at"].astimezone(UTC).replace(tzinfo=None),
                "completion s": None if row["completion_ms"] is None else row["completion_ms"] / 1000,
                "in time": {True: "yes", False: "late", None: ""}[row["within_limit"]],
                "attempts": row["attempts"],
                "amount": row["amount_cents"] / 100,
                "run": row["run_id"] or "",
            }
            for row in rows
        ],
        columns=list(_ORDERS),
    )


def events(file: OrderDetails) -> pd.DataFrame:
    """Every event of an order, oldest first; times as seconds since acceptance."""
    accepted_at = file.order["accepted_at"]
    return pd.DataFrame(
        [
            {
                "after s": (event["at"] - accepted_at).total_seconds(),
                "event": event["kind"],
                "state": event["state"],
                "step": event["step"] or "",
                "attempt": event["attempt"],
                "outcome": event["outcome"] or "",
                "took ms": event["duration_ms"],
                "worker": event["worker"] or "",
                "detail": json.dumps(event["detail"], ensure_ascii=False) if event["detail"] else "",
            }
            for event in file.events
        ]
    )


def database_beside_provider(file: OrderDetails) -> pd.DataFrame:
    """What our books say of money and parcel, beside what the outside's own ledgers say."""
    order = file.order
    payment, shipment = order["payment"], order["shipment"]
    charges = [entry for entry in order["ledger"] if entry["kind"] == "charge"]
    refunds = [entry for entry in order["ledger"] if entry["kind"] == "refund"]
    dispatched = [parcel for parcel in order["parcels"] if parcel["dispatched_at"]]
    recalled = [
        each for each in (*order["parcels"], *order["packages"]) if each["recalled_at"] and _was_there(each)
    ]
    ours = {
        "charged": _money(payment["amount_cents"]) if payment and payment["status"] in _CHARGED else "",
        "refunded": _money(payment["amount_cents"]) if payment and payment["status"] == "refunded" else "",
        "packed": "yes" if shipment and shipment["packed_at"] else "",
        "dispatched": shipment["tracking"] or "yes" if shipment and shipment["dispatched_at"] else "",
        "label": _address(shipment["label_address"]) if shipment else "",
        "recalled": "yes" if shipment and shipment["recalled_at"] else "",
    }
    theirs = {
        "charged": _money(sum(entry["amount_cents"] for entry in charges)) if charges else "",
        "refunded": _money(sum(entry["amount_cents"] for entry in refunds)) if refunds else "",
        "packed": "yes" if any(package["packed_at"] for package in order["packages"]) else "",
        "dispatched": ", ".join(parcel["tracking"] or "yes" for parcel in dispatched),
        "label": ", ".join(_address(parcel["label_address"]) for parcel in dispatched),
        "recalled": "yes" if recalled else "",
    }
    return pd.DataFrame(
        [{"": name, "our books": ours[name], "the outside's ledger": theirs[name]} for name in ours]
    )


_ADDRESS = ("street", "city", "state", "zip")
_CHARGED = ("charged", "refunded")


def _was_there(thing: Row) -> bool:
    return bool(thing.get("packed_at") or thing.get("dispatched_at"))


def _money(cents: int) -> str:
    return f"{cents / 100:,.2f}"


def _address(address: Row | None) -> str:
    return ", ".join(str(address.get(part, "")) for part in _ADDRESS) if address else ""
