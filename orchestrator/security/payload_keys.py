"""The keys that payloads are encrypted with, as `PAYLOAD_KEYS` names them."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")


@dataclass(frozen=True)
class PayloadKeys:
    """Keys by name. The first one encrypts, each of them decrypts, so that a key can be replaced."""

    by_name: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str | None) -> "PayloadKeys":
        """Reads `name:key,name:key`, each key 32 bytes in base64; no text is no keys.

        Raises ValueError, which says what is wrong and quotes no key.
        """
        found: dict[str, bytes] = {}
        for number, entry in enumerate(text.split(",") if text else [], start=1):
            name, separator, encoded = entry.strip().partition(":")
            if not separator or not _NAME.fullmatch(name):
                raise ValueError(
                    f"entry {number} must be NAME:KEY, the name of up to 32 letters, digits, '.', '_' or '-'"
                )
            if name in found:
                raise ValueError(f"two keys are named {name}")
            found[name] = _decoded(name, encoded)
        return cls(found)

    @property
    def first(self) -> str | None:
        """The name of the key that encrypts; None when nothing is to be encrypted."""
        return next(iter(self.by_name), None)


def _decoded(name: str, encoded: str) -> bytes:
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError(f"key {name} is not base64") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"key {name} has {len(key)} bytes and needs {KEY_BYTES}")
    return key
