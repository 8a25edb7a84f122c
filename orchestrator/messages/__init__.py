"""Messages of the workflows: arguments, results, signals, updates and activity payloads.

Plain dataclasses: Temporal's default JSON converter reads and writes them, so any Temporal tool can send a
signal as a JSON object with the same field names.
"""
