"""`python -m tests.chaos [NAME ...]`: run all crashes, or the named ones, and print a table.

Exits 1 if there is a problem; problems are on stderr.
"""

import argparse
import asyncio
import signal
import sys

from tests.chaos.crashes import (
    CRASHES,
    TABLE_HEAD,
    Crash,
    Site,
    crash_named,
    print_result,
    run_crash,
    temporary_site,
)


async def run(site: Site, crashes: list[Crash]) -> bool:
    """Print a row for each crash and return whether there was no problem."""
    passed = True
    print(TABLE_HEAD, flush=True)  # noqa: T201
    for crash in crashes:
        passed &= print_result(await run_crash(site, crash))
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    names = [crash.name for crash in CRASHES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(names)}; default: all")
    selected = parser.parse_args().names or names
    if unknown := [name for name in selected if name not in names]:
        parser.error(f"unknown crash {unknown[0]!r}; known: {', '.join(names)}")
    # SIGTERM must stop the stack too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with temporary_site() as site:
        passed = asyncio.run(run(site, [crash_named(name) for name in selected]))
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
