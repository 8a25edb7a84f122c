"""The world outside: protocols for it, simulators that ship with the project, and what goes wrong."""
