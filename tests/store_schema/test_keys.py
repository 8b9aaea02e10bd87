"""Ids and keys: what may stand in a path of a store."""

import pickle

import pytest

from store_schema import EntryKey, check_id
from store_schema.errors import InvalidKeyError

BAD_IDS = {
    "empty": "",
    "separator": "a/b",
    "backslash": "a\\b",
    "leading dot": ".a",
    "trailing dot": "a.",
    "double dot": "a..b",
    "parent": "..",
    "two joiners": "a-_b",
    "space": "a b",
    "line feed at the end": "a\n",
    "control character": "a\x1bb",
    "null": "a\0b",
    "cyrillic look-alike": "\u0430bc",
    "full-width digit": "\uff11",
    "arabic digit": "\u0661",
    "combining accent": "e\u0301",
    "300 characters": "a" * 300,
    "65 characters": "a" * 65,
}


@pytest.mark.parametrize("text", BAD_IDS.values(), ids=BAD_IDS)
def test_id_that_could_leave_its_folder_or_be_mistaken_is_refused(text: str) -> None:
    with pytest.raises(InvalidKeyError, match="is not a patient id: expected 1 to 64 ASCII"):
        EntryKey(text, "CT", "skeleton")
    with pytest.raises(InvalidKeyError, match="roi"):
        EntryKey("P1", "CT", text)


@pytest.mark.parametrize("text", ["a", "P001", "P001.followup", "2024-01-02", "a_b-c.d", "A" * 64])
def test_id_of_groups_joined_by_single_signs_is_accepted(text: str) -> None:
    assert check_id("patient", text) == text


def test_message_shows_unprintable_characters_escaped() -> None:
    with pytest.raises(InvalidKeyError, match=r"'a\\x1bb'"):
        check_id("patient", "a\x1bb")


def test_name_of_zarr_metadata_is_no_key() -> None:
    with pytest.raises(InvalidKeyError, match="readers of Zarr"):
        EntryKey("zarr.json", "CT", "skeleton")
    with pytest.raises(InvalidKeyError, match="readers of Zarr"):
        EntryKey("P1", "ZARR.JSON", "skeleton")


@pytest.mark.parametrize("text", ["P1/CT", "P1/CT/a/b", "P1//a", "/P1/CT/a", "P1/CT/a/"])
def test_text_without_three_ids_is_no_key(text: str) -> None:
    with pytest.raises(InvalidKeyError):
        EntryKey.parse(text)


def test_keys_sort_by_patient_modality_roi() -> None:
    keys = [EntryKey("b", "a", "a"), EntryKey("a", "b", "a"), EntryKey("a", "a", "b")]
    assert sorted(keys) == keys[::-1]


def test_errors_cross_process_borders_unchanged() -> None:
    error = pickle.loads(pickle.dumps(InvalidKeyError("what was refused")))
    assert (type(error), str(error)) == (InvalidKeyError, "what was refused")
