"""Encryption of payloads: what goes in comes out, and nothing else does."""

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


async def test_what_was_encrypted_is_decrypted_and_does_not_show_in_between() -> None:
    payload = await encrypted(OLD)
    assert SECRET not in payload.SerializeToString()
    assert payload.metadata["encoding"] == b"binary/encrypted"
    assert payload.metadata["encryption-key-id"] == b"old"
    assert await codec(OLD).decode([payload]) == [PLAIN]


async def test_the_same_payload_is_never_encrypted_the_same_way_twice() -> None:
    assert (await encrypted(OLD)).data != (await encrypted(OLD)).data


async def test_several_payloads_keep_their_order() -> None:
    payloads = [Payload(data=bytes([n])) for n in range(5)]
    assert await codec(OLD).decode(await codec(OLD).encode(payloads)) == payloads


async def test_every_changed_byte_is_noticed() -> None:
    payload = await encrypted(OLD)
    for place in range(len(payload.data)):
        changed = bytearray(payload.data)
        changed[place] ^= 1
        with pytest.raises(PayloadUnreadable, match="was changed"):
            await codec(OLD).decode([Payload(metadata=payload.metadata, data=bytes(changed))])


@pytest.mark.parametrize("length", [0, 5, 12, 20])
async def test_a_payload_that_was_cut_off_is_refused(length: int) -> None:
    payload = await encrypted(OLD)
    with pytest.raises(PayloadUnreadable):
        await codec(OLD).decode([Payload(metadata=payload.metadata, data=payload.data[:length])])


async def test_a_payload_under_another_keys_name_is_refused_even_if_the_key_is_the_same() -> None:
    same = OLD.partition(":")[2]
    payload = await encrypted(OLD)
    payload.metadata["encryption-key-id"] = b"other"
    with pytest.raises(PayloadUnreadable, match="was changed"):
        await codec(f"other:{same}").decode([payload])


async def test_another_key_of_the_same_name_does_not_decrypt() -> None:
    with pytest.raises(PayloadUnreadable, match="the key is another one"):
        await codec(f"old:{key()}").decode([await encrypted(OLD)])


async def test_a_new_key_encrypts_and_the_old_one_still_decrypts() -> None:
    before, after = await encrypted(OLD), await encrypted(NEW, OLD)
    assert after.metadata["encryption-key-id"] == b"new"
    assert await codec(NEW, OLD).decode([before, after]) == [PLAIN, PLAIN]
    # A process that does not encrypt with the new key yet can already read it.
    assert await codec(OLD, NEW).decode([after]) == [PLAIN]


async def test_a_missing_key_is_named() -> None:
    for without in ((NEW,), ()):
        with pytest.raises(PayloadUnreadable, match="encrypted with key 'old', which PAYLOAD_KEYS lacks"):
            await codec(*without).decode([await encrypted(OLD)])


async def test_what_is_not_encrypted_passes_through() -> None:
    assert await codec(OLD).decode([PLAIN]) == [PLAIN]
    assert await codec().encode([PLAIN]) == [PLAIN]


async def test_a_failure_shows_neither_its_message_nor_its_details() -> None:
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
    ("text", "complaint"),
    [
        ("nothing", "entry 1 must be NAME:KEY"),
        (f"{OLD},", "entry 2 must be NAME:KEY"),
        (f"a b:{key()}", "entry 1 must be NAME:KEY"),
        ("old:geheim!", "key old is not base64"),
        ("old:Z2VoZWlt", "key old has 6 bytes and needs 32"),
        (f"{OLD},old:{key()}", "two keys are named old"),
    ],
    # The keys are other ones in each process; the names of tests are not.
    ids=["no-key", "empty-entry", "blank-in-name", "not-base64", "short", "twice"],
)
def test_a_wrong_setting_is_one_sentence_that_quotes_no_key(
    monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    monkeypatch.setenv("PAYLOAD_KEYS", text)
    with pytest.raises(SettingsError) as refused:
        Settings.load()
    assert str(refused.value).startswith(f"PAYLOAD_KEYS: {complaint}")
    assert "geheim" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_keys_are_in_no_text_and_no_file_that_settings_are_written_to() -> None:
    settings = Settings(payload_keys=OLD)
    secret = OLD.partition(":")[2]
    assert secret not in repr(settings)
    assert secret not in settings.model_dump_json()
    assert secret not in repr(PayloadKeys.parse(OLD))


def test_only_workers_and_api_are_given_the_keys() -> None:
    for component in components.components(Settings(payload_keys=OLD)):
        withheld = component.environment.get("PAYLOAD_KEYS") == ""
        assert withheld == (component.stage is not Stage.SERVICES), component.name


def test_no_component_is_given_the_api_key_of_whoever_starts_the_stack() -> None:
    for component in components.components(Settings(api_key="ord_" + "k" * 43)):
        assert component.environment["API_KEY"] == "", component.name
