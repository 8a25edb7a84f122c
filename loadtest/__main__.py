"""`python -m loadtest run | capacity | compare`."""

from loadtest.commands import main

if __name__ == "__main__":
    main()
