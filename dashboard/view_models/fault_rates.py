"""The table in which a user sets custom fault rates, and its texts."""

from dataclasses import asdict

import pandas as pd

from db.domain import GATEWAY_STEPS
from orchestrator.gateways.fault_injection import PROFILES, FaultProfile, Rates
from orchestrator.rest_client import Json

OTHER_STEPS = "all other steps"
RATES = tuple(asdict(Rates()))


def rates_table() -> pd.DataFrame:
    """Return a row for each step that calls a gateway; an empty row has the rates of "all other steps"."""
    steps = pd.DataFrame(None, index=[step.value for step in GATEWAY_STEPS], columns=list(RATES), dtype=float)
    return pd.concat([pd.DataFrame([asdict(PROFILES["assignment"])], index=[OTHER_STEPS]), steps])


def rates_of(table: pd.DataFrame) -> Json:
    """Return the rates as `PUT /faults` expects them, without empty cells."""
    rows = {str(step): row.dropna().to_dict() for step, row in table.iterrows()}
    default = rows.pop(OTHER_STEPS)
    return {"default": default, "steps": {step: rates for step, rates in rows.items() if rates}}


def rates_error(rates: Json) -> str | None:
    """Return what is wrong with the rates as a sentence, or None."""
    try:
        FaultProfile.from_json("custom", 0, rates)
    except ValueError as error:
        text = str(error)
        return f"{text[:1].upper()}{text[1:]}."
    return None


def rates_text(rates: Json) -> str:
    """Return the rates as a sentence: "All other steps: error 33 %, hang 34 %."."""
    rows = {OTHER_STEPS: rates["default"], **rates["steps"]}
    return " ".join(f"{step.capitalize()}: {_shares(row)}." for step, row in rows.items())


def _shares(row: Json) -> str:
    shares = [
        f"{name.replace('_', ' ')} {100 * share:.3g} %"
        for name, share in row.items()
        if name != "slow_mean_ms" and share
    ]
    return ", ".join(shares) or "no faults"
