"""`python -m loadtest` with the tolerant locustfile."""

from pathlib import Path

from loadtest import commands

commands.LOCUSTFILE = Path(__file__).with_name("tolerant_locustfile.py")

if __name__ == "__main__":
    commands.main()
