"""The encryption keys in the setting `PAYLOAD_KEYS`."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")


@dataclass(frozen=True)
class PayloadKeys:
    """Keys by name. The first key encrypts and every key decrypts, so that a key can be rotated."""

    by_name: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str | None) -> "PayloadKeys":
        """Parse `name:key,name:key`, each key 32 bytes in base64. Returns no keys for None or an empty text.

        Raises ValueError; the message contains no key.
        """
        keys: dict[str, bytes] = {}
        for number, entry in enumerate(text.split(",") if text else [], start=1):
            name, separator, encoded = entry.strip().partition(":")
            if not separator or not _NAME.fullmatch(name):
                raise ValueError(
                    f"entry {number} must be NAME:KEY; a name has up to 32 letters, digits, '.', '_' or '-'"
                )
            if name in keys:
                raise ValueError(f"two keys have the name {name}")
            keys[name] = _decode(name, encoded)
        return cls(keys)

    @property
    def first(self) -> str | None:
        """The name of the key that encrypts, or None without keys."""
        return next(iter(self.by_name), None)


def _decode(name: str, encoded: str) -> bytes:
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError(f"key {name} is not base64") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"key {name} has {len(key)} bytes instead of {KEY_BYTES}")
    return key
