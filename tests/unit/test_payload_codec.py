"""Encryption of Temporal payloads."""

import base64
import os

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import ApplicationError

from orchestrator.embedded import Stage, components
from orchestrator.errors import PayloadUnreadable, SettingsError
from orchestrator.security.payload_codec import EncryptingCodec, data_converter
from orchestrator.security.payload_keys import PayloadKeys
from orchestrator.settings import Settings

SECRET = b'"1 Marker Street"'
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=SECRET)


def key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


OLD, NEW = f"old:{key()}", f"new:{key()}"


def codec(*entries: str) -> EncryptingCodec:
    return EncryptingCodec(PayloadKeys.parse(",".join(entries)))


async def encrypted(*entries: str) -> Payload:
    (payload,) = await codec(*entries).encode([PLAIN])
    return payload


async def test_a_payload_is_encrypted_and_decrypted() -> None:
    payload = await encrypted(OLD)
    assert SECRET not in payload.SerializeToString()
    assert payload.metadata["encoding"] == b"binary/encrypted"
    assert payload.metadata["encryption-key-id"] == b"old"
    assert await codec(OLD).decode([payload]) == [PLAIN]


async def test_equal_payloads_have_different_ciphertexts() -> None:
    assert (await encrypted(OLD)).data != (await encrypted(OLD)).data


async def test_several_payloads_keep_their_order() -> None:
    payloads = [Payload(data=bytes([n])) for n in range(5)]
    assert await codec(OLD).decode(await codec(OLD).encode(payloads)) == payloads


async def test_every_modified_byte_is_detected() -> None:
    payload = await encrypted(OLD)
    for position in range(len(payload.data)):
        changed = bytearray(payload.data)
        changed[position] ^= 1
        with pytest.raises(PayloadUnreadable, match="was modified"):
            await codec(OLD).decode([Payload(metadata=payload.metadata, data=bytes(changed))])


@pytest.mark.parametrize("length", [0, 5, 12, 20])
async def test_a_truncated_payload_is_rejected(length: int) -> None:
    payload = await encrypted(OLD)
    with pytest.raises(PayloadUnreadable):
        await codec(OLD).decode([Payload(metadata=payload.metadata, data=payload.data[:length])])


async def test_a_payload_with_the_name_of_another_key_is_rejected() -> None:
    same = OLD.partition(":")[2]
    payload = await encrypted(OLD)
    payload.metadata["encryption-key-id"] = b"other"
    with pytest.raises(PayloadUnreadable, match="was modified"):
        await codec(f"other:{same}").decode([payload])


async def test_a_different_key_with_the_same_name_does_not_decrypt() -> None:
    with pytest.raises(PayloadUnreadable, match="the key is a different one"):
        await codec(f"old:{key()}").decode([await encrypted(OLD)])


async def test_after_a_rotation_the_old_key_still_decrypts() -> None:
    before, after = await encrypted(OLD), await encrypted(NEW, OLD)
    assert after.metadata["encryption-key-id"] == b"new"
    assert await codec(NEW, OLD).decode([before, after]) == [PLAIN, PLAIN]
    # During a rotation, a process can decrypt with the new key before it encrypts with it.
    assert await codec(OLD, NEW).decode([after]) == [PLAIN]


async def test_the_error_names_the_missing_key() -> None:
    for without in ((NEW,), ()):
        with pytest.raises(PayloadUnreadable, match="encrypted with key 'old', which is not in PAYLOAD_KEYS"):
            await codec(*without).decode([await encrypted(OLD)])


async def test_unencrypted_payloads_pass_through() -> None:
    assert await codec(OLD).decode([PLAIN]) == [PLAIN]
    assert await codec().encode([PLAIN]) == [PLAIN]


async def test_messages_and_details_of_failures_are_encrypted() -> None:
    converter = data_converter(PayloadKeys.parse(OLD))
    failure = Failure()
    try:
        raise ApplicationError("1 Marker Street is unknown", {"street": "1 Marker Street"}, type="NoStreet")
    except ApplicationError as error:
        await converter.encode_failure(error, failure)
    assert b"Marker" not in failure.SerializeToString()
    assert failure.application_failure_info.type == "NoStreet"
    again = await converter.decode_failure(failure)
    assert isinstance(again, ApplicationError)
    assert (again.message, again.details[0]["street"]) == ("1 Marker Street is unknown", "1 Marker Street")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "entry 1 must be NAME:KEY"),
        (f"{OLD},", "entry 2 must be NAME:KEY"),
        (f"a b:{key()}", "entry 1 must be NAME:KEY"),
        ("old:geheim!", "key old is not base64"),
        ("old:Z2VoZWlt", "key old has 6 bytes instead of 32"),
        (f"{OLD},old:{key()}", "two keys have the name old"),
    ],
    # Test ids must be equal in all xdist workers, and the keys are random.
    ids=["no-key", "empty-entry", "blank-in-name", "not-base64", "short", "twice"],
)
def test_an_invalid_setting_is_reported_without_the_key(
    monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("PAYLOAD_KEYS", text)
    with pytest.raises(SettingsError) as raised:
        Settings.load()
    assert str(raised.value).startswith(f"PAYLOAD_KEYS: {message}")
    assert "geheim" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_settings_never_show_the_keys() -> None:
    settings = Settings(payload_keys=OLD)
    secret = OLD.partition(":")[2]
    assert secret not in repr(settings)
    assert secret not in settings.model_dump_json()
    assert secret not in repr(PayloadKeys.parse(OLD))


def test_only_workers_and_api_receive_the_payload_keys() -> None:
    for component in components.components(Settings(payload_keys=OLD)):
        withheld = component.environment.get("PAYLOAD_KEYS") == ""
        assert withheld == (component.stage is not Stage.SERVICES), component.name


def test_no_component_receives_the_api_key_of_the_user_who_starts_the_stack() -> None:
    for component in components.components(Settings(api_key="ord_" + "k" * 43)):
        assert component.environment["API_KEY"] == "", component.name
