"""`python -m tests.chaos [NAME ...]`: every crash, or those named, and a table.

Exits 0 when all is as promised, 1 when not, and then says on stderr what is not.
"""

import argparse
import asyncio
import signal
import sys

from tests.chaos.crashes import CRASHES, HEADING, Crash, Site, named, run_crash, site_of_its_own, table_row


async def run(site: Site, crashes: list[Crash]) -> bool:
    """Prints a row for each crash; returns whether everything was as promised."""
    as_promised = True
    print(HEADING, flush=True)  # noqa: T201
    for crash in crashes:
        aftermath = await run_crash(site, crash)
        print(table_row(aftermath), flush=True)  # noqa: T201
        for promise in aftermath.broken_promises:
            print(f"{crash.name}: {promise}", file=sys.stderr, flush=True)  # noqa: T201
        as_promised = as_promised and not aftermath.broken_promises
    return as_promised


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    names = [crash.name for crash in CRASHES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(names)}; default: all")
    wanted = parser.parse_args().names or names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"unknown crash {unknown[0]!r}; known: {', '.join(names)}")
    # Whoever ends us wants the stack gone too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with site_of_its_own() as site:
        as_promised = asyncio.run(run(site, [named(name) for name in wanted]))
    sys.exit(0 if as_promised else 1)


if __name__ == "__main__":
    main()
