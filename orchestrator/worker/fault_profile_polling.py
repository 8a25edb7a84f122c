"""Keeps a worker's fault injector at the active fault profile, which the order database stores."""

import asyncio

import structlog

from db import fault_profiles
from db.database import Database
from orchestrator.errors import ServiceUnavailable
from orchestrator.gateways.fault_injection import FaultInjector, FaultProfile

POLL_SECONDS = 0.4

FIRST_PROFILE_TIMEOUT_SECONDS = 2.0
"""How long a starting worker waits for the active profile. Without the wait, the first gateway calls of a
restarted worker would succeed under any profile."""

log = structlog.get_logger()


async def load_fault_profile(database: Database, injector: FaultInjector) -> None:
    """Set the active profile; return without it if it cannot be read in time."""
    try:
        async with asyncio.timeout(FIRST_PROFILE_TIMEOUT_SECONDS):
            while not await _read(database, injector):  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)
    except Exception as error:
        # `poll_fault_profile` continues; the worker can start.
        log.warning("fault profile is unknown at the start", error=repr(error))


async def poll_fault_profile(database: Database, injector: FaultInjector) -> None:
    """Follow changes of the active profile, forever."""
    while True:
        await _read(database, injector)
        await asyncio.sleep(POLL_SECONDS)


async def _read(database: Database, injector: FaultInjector) -> bool:
    """Set the active profile; return whether the database was available."""
    try:
        change = await fault_profiles.current(database)
        if change is not None:
            profile = FaultProfile.from_json(change.profile, change.seed, change.rates)
            if profile != injector.profile:
                injector.profile = profile
                log.info("fault profile changed", profile=profile.name, seed=profile.seed)
    except ServiceUnavailable as error:
        log.warning("fault profile is unknown, keeping the last one", error=str(error))
        return False
    except ValueError as error:
        log.warning("fault profile is invalid, keeping the last one", error=str(error))
    return True
