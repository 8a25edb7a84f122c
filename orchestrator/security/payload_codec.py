"""Encrypts Temporal payloads, so that its history contains no address.

An encrypted payload is a nonce and the AES-256-GCM ciphertext of the whole payload. Its metadata has the name
of the key, which is authenticated too. docs/decisions/0008 lists what is encrypted.
"""

import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec

from orchestrator.errors import PayloadUnreadable
from orchestrator.security.payload_keys import PayloadKeys

ENCODING = b"binary/encrypted"
CIPHER = b"AES-256-GCM"
NONCE_BYTES = 12
"""Random nonces of this size allow 2^32 payloads per key."""


class EncryptingCodec(PayloadCodec):
    """Encrypts with the first key, if there is one, and decrypts with any.

    Passes unencrypted payloads through: signals of Temporal's tools, and orders from before encryption was
    enabled.
    """

    def __init__(self, keys: PayloadKeys) -> None:
        self._encrypting = keys.first
        self._ciphers = {name: AESGCM(key) for name, key in keys.by_name.items()}

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        name = self._encrypting
        return list(payloads) if name is None else [self._encrypt(name, payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raises PayloadUnreadable for a payload with an unknown key, or one that was modified."""
        return [self._decrypt(payload) for payload in payloads]

    def _encrypt(self, name: str, payload: Payload) -> Payload:
        nonce = os.urandom(NONCE_BYTES)
        ciphertext = self._ciphers[name].encrypt(nonce, payload.SerializeToString(), _associated_data(name))
        metadata = {
            "encoding": ENCODING,
            "encryption-cipher": CIPHER,
            "encryption-key-id": name.encode(),
        }
        return Payload(metadata=metadata, data=nonce + ciphertext)

    def _decrypt(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        name = payload.metadata.get("encryption-key-id", b"").decode("ascii", "replace")
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise PayloadUnreadable(f"a payload is encrypted with key {name!r}, which is not in PAYLOAD_KEYS")
        nonce, ciphertext = payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:]
        try:
            return Payload.FromString(cipher.decrypt(nonce, ciphertext, _associated_data(name)))
        except (InvalidTag, ValueError, DecodeError) as error:
            raise PayloadUnreadable(
                f"a payload cannot be decrypted with key {name!r}: it was modified, or the key is a "
                "different one"
            ) from error


def _associated_data(name: str) -> bytes:
    return b"|".join((CIPHER, name.encode()))


def data_converter(keys: PayloadKeys) -> DataConverter:
    """Return the data converter of clients and workers. With keys, it encrypts failure messages too."""
    if keys.first is None:
        return DataConverter(payload_codec=EncryptingCodec(keys))
    return DataConverter(
        payload_codec=EncryptingCodec(keys),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
