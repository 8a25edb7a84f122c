"""Encrypts what orders carry through Temporal, so that its history shows no address.

An encrypted payload is a nonce and the AES-256-GCM ciphertext of the whole payload, with the name of its
key beside it. The name is authenticated too. docs/decisions/0008 says what is encrypted and what is not.
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
"""A random nonce, as GCM wants it: one key is good for 2^32 payloads."""


class EncryptingCodec(PayloadCodec):
    """Encrypts with the first key, if there is one. Decrypts with any, and passes on what is not encrypted:
    signals of Temporal's own tools, and orders from before encryption was switched on."""

    def __init__(self, keys: PayloadKeys) -> None:
        self._encrypting = keys.first
        self._ciphers = {name: AESGCM(key) for name, key in keys.by_name.items()}

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        name = self._encrypting
        return list(payloads) if name is None else [self._encrypted(name, payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raises PayloadUnreadable for a payload whose key is not here, or that was changed on its way."""
        return [self._decrypted(payload) for payload in payloads]

    def _encrypted(self, name: str, payload: Payload) -> Payload:
        nonce = os.urandom(NONCE_BYTES)
        ciphertext = self._ciphers[name].encrypt(nonce, payload.SerializeToString(), _authenticated(name))
        metadata = {
            "encoding": ENCODING,
            "encryption-cipher": CIPHER,
            "encryption-key-id": name.encode(),
        }
        return Payload(metadata=metadata, data=nonce + ciphertext)

    def _decrypted(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        name = payload.metadata.get("encryption-key-id", b"").decode("ascii", "replace")
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise PayloadUnreadable(
                f"a payload is encrypted with key {name!r}, which PAYLOAD_KEYS lacks here"
            )
        nonce, ciphertext = payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:]
        try:
            return Payload.FromString(cipher.decrypt(nonce, ciphertext, _authenticated(name)))
        except (InvalidTag, ValueError, DecodeError) as error:
            raise PayloadUnreadable(
                f"a payload is not what key {name!r} has encrypted: it was changed, or the key is another one"
            ) from error


def _authenticated(name: str) -> bytes:
    return b"|".join((CIPHER, name.encode()))


def data_converter(keys: PayloadKeys) -> DataConverter:
    """How clients and workers convert values. Failures keep their messages in the encrypted part."""
    if keys.first is None:
        return DataConverter(payload_codec=EncryptingCodec(keys))
    return DataConverter(
        payload_codec=EncryptingCodec(keys),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
