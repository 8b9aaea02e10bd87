"""Pseudonyms: stable, keyed, of the id grammar; a filter that lets no known id through; one rule a store."""

import hmac
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_schema import EntryKey, Store, create_store
from store_schema.errors import ImageError, InvalidKeyError, UsageError
from store_schema.pseudonyms import KEY_VARIABLE, PSEUDONYM, RULE_PATH, PlainIds, Pseudonyms, check_rule, settle_rule
from store_schema.testing import digest_of, example_entry, example_view

KEY, OTHER = b"0123456789abcdef-planted", b"another key of enough bytes"


@pytest.fixture
def ids() -> Pseudonyms:
    return Pseudonyms(KEY)


@pytest.fixture
def store() -> Store:
    return create_store(f"memory://{uuid4().hex}")


def test_a_pseudonym_is_the_hmac_of_the_id() -> None:
    expected = hmac.new(KEY, b'["patient","P001"]', "sha256").hexdigest()[:20]
    assert Pseudonyms(KEY).key("P001") == Pseudonyms(KEY).patient("P001") == f"p{expected}"


def test_pseudonyms_are_the_same_in_another_process() -> None:
    code = "from store_schema.pseudonyms import Pseudonyms; print(Pseudonyms.from_environment().key('P001', 'base'))"
    environment = os.environ | {KEY_VARIABLE: KEY.decode()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == Pseudonyms(KEY).key("P001", "base")


def test_another_key_gives_other_pseudonyms() -> None:
    assert Pseudonyms(KEY).key("P001") != Pseudonyms(OTHER).key("P001")


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("ids", [PlainIds(), Pseudonyms(KEY)], ids=["plain", "pseudonyms"])
def test_a_text_is_filtered_while_another_thread_comes_to_know_of_more(ids: PlainIds) -> None:
    def know() -> None:
        for number in range(500):
            ids.know(patients=[f"patient-{number}"], places=[f"/data/{number}/image-{number}.nii"])

    thread = threading.Thread(target=know)
    thread.start()
    while thread.is_alive():
        assert ids.logged("a text of nobody") == "a text of nobody"
    assert "patient-499" not in ids.logged("patient-499 in /data/499/image-499.nii")


@given(patient=st.text(min_size=1), study=st.none() | st.text(min_size=1))
def test_any_text_becomes_an_id_of_the_store(patient: str, study: str | None) -> None:
    key = Pseudonyms(KEY).key(patient, study)
    assert PSEUDONYM.fullmatch(key)
    assert EntryKey(key, "CT", "spine").patient == key
    assert key == key.lower()


def test_a_study_is_named_within_its_patient(ids: Pseudonyms) -> None:
    one, other = ids.key("P1", "base"), ids.key("P2", "base")
    assert one.partition(".")[0] == ids.patient("P1")
    assert one.partition(".")[2] != other.partition(".")[2]
    assert ids.key("P1", "month6").partition(".")[0] == ids.patient("P1")


def test_one_letter_has_one_spelling(ids: Pseudonyms) -> None:
    assert ids.key("M\u00fcller") == ids.key("Mu\u0308ller ")


@pytest.mark.parametrize("key", [None, "", "   ", "fifteen-bytes-x"])
def test_a_key_that_is_absent_or_too_short_is_refused_with_how_to_make_one(key: str | None) -> None:
    with pytest.raises(UsageError, match=r"secrets\.token_hex") as caught:
        Pseudonyms.from_environment({} if key is None else {KEY_VARIABLE: key})
    assert "fifteen" not in str(caught.value)


def test_a_pickle_holds_no_key_and_no_id(ids: Pseudonyms, monkeypatch: pytest.MonkeyPatch) -> None:
    ids.know(patients=["KOWALSKA"])
    data = pickle.dumps(ids)
    assert KEY not in data
    assert b"KOWALSKA" not in data
    monkeypatch.setenv(KEY_VARIABLE, KEY.decode())
    assert pickle.loads(data).key("P1") == ids.key("P1")


def test_plain_ids_stay_and_must_fit_the_store() -> None:
    assert PlainIds().key("P001") == "P001"
    assert PlainIds().key("P001", "base") == "P001.base"
    for patient, study in (("../x", None), ("P1", "a/b"), ("", None)):
        with pytest.raises(InvalidKeyError):
            PlainIds().key(patient, study)


@pytest.mark.parametrize(
    "text",
    [
        "/data/KOWALSKA/scan_1.nii.gz is damaged",
        "patient 'KOWALSKA' has no mask",
        "kowalska_ct.nii",
        "xKOWALSKAy",
        "FileNotFoundError: '/data/KOWALSKA/other.raw'",
        "s3://bucket/KOWALSKA/pet.nii.gz answered 500",
        "KOWALSKA.base",
        "scan_1.nii.gz",
    ],
)
def test_no_known_id_place_or_file_name_passes(ids: Pseudonyms, text: str) -> None:
    ids.know(patients=["KOWALSKA"], places=["/data/KOWALSKA/scan_1.nii.gz", "s3://bucket/KOWALSKA/pet.nii.gz"])
    for cleaned in (ids.clean(text), ids.recorded(text)):
        assert "kowalska" not in cleaned.lower()
        assert "scan_1" not in cleaned


def test_an_id_of_the_longer_of_two_is_not_cut(ids: Pseudonyms) -> None:
    ids.know(patients=["MM_1", "MM_12"])
    assert ids.clean("MM_12 and MM_1") == f"{ids.patient('MM_12')} and {ids.patient('MM_1')}"


def test_short_and_hexadecimal_ids_leave_other_words_alone(ids: Pseudonyms) -> None:
    ids.know(patients=["7", "ab12"])
    digest = "cab12f"
    assert ids.clean(f"patient 7: 17 slices, {digest}") == f"patient {ids.patient('7')}: 17 slices, {digest}"
    assert ids.patient("ab12") in ids.clean("no mask of ab12.")


def test_a_pseudonym_is_not_replaced_again(ids: Pseudonyms) -> None:
    ids.know(patients=["a", "b", "1", "0"])
    key = ids.key("a")
    assert ids.clean(f"{key} is done") == f"{key} is done"


def test_a_study_and_a_secret_are_hidden(ids: Pseudonyms) -> None:
    ids.know(studies=["2019-04-01"])
    assert ids.clean("study 2019-04-01 at https://u:pw@host/x?sig=abc") == "study s*** at https://***@host/x?sig=***"


def test_a_file_keeps_its_format_alone(ids: Pseudonyms) -> None:
    assert re.fullmatch(r"f[0-9a-f]{20}\.nii\.gz", ids.source("/data/KOWALSKA/scan.nii.gz"))
    assert re.fullmatch(r"f[0-9a-f]{20}", ids.source("/data/P1/scan.KOWALSKA"))
    assert ids.source("/data/1/ct.nii") != ids.source("/data/2/ct.nii")


def test_errors_that_leave_carry_no_id_and_no_cause(ids: Pseudonyms) -> None:
    ids.know(patients=["KOWALSKA"])

    def fail() -> None:
        try:
            int("KOWALSKA")
        except ValueError as error:
            raise ImageError("no image of KOWALSKA") from error

    with pytest.raises(ImageError) as caught:
        ids.filtered(fail)
    assert str(caught.value) == f"no image of {ids.patient('KOWALSKA')}"
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_plain_errors_pass_as_they_are() -> None:
    with pytest.raises(FileNotFoundError) as missing:
        PlainIds().filtered(lambda: Path("/nosuch/P001").read_bytes())
    assert missing.value.filename == "/nosuch/P001"


def test_plain_records_say_no_place_of_this_machine() -> None:
    ids = PlainIds()
    ids.know(places=["/srv/alice/P1/ct.nii.gz"])
    text = ids.recorded(f"ImageError: /srv/alice/P1/ct.nii.gz is damaged ({Path.home()}/x.py:3)")
    assert "alice" not in text
    assert "/ct.nii.gz is damaged (~/x.py:3)" in text
    assert ids.clean("/srv/alice/P1/ct.nii.gz is damaged") == "/srv/alice/P1/ct.nii.gz is damaged"


def publish(store: Store, patient: str) -> None:
    view = store.put_view(example_view())
    store.publish(view, EntryKey(patient, "CT", "spine"), example_entry(), input_sha256=digest_of(patient))


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (Pseudonyms(KEY), Pseudonyms(OTHER), "another pseudonym key"),
        (Pseudonyms(KEY), PlainIds(), "give --pseudonymise"),
        (PlainIds(), Pseudonyms(KEY), "leave --pseudonymise out"),
    ],
)
def test_a_store_has_one_rule_for_good(store: Store, first: PlainIds, second: PlainIds, said: str) -> None:
    settle_rule(store, first)
    settle_rule(store, first)
    assert check_rule(store.location, first)
    for act in (lambda: settle_rule(store, second), lambda: check_rule(store.location, second)):
        with pytest.raises(UsageError, match=said) as caught:
            act()
        assert KEY.decode() not in str(caught.value)


def test_the_rule_gives_no_key_away(store: Store) -> None:
    settle_rule(store, Pseudonyms(KEY))
    data = store.location.get(RULE_PATH)
    assert KEY not in data
    assert Pseudonyms(KEY).rule.key_fingerprint != Pseudonyms(OTHER).rule.key_fingerprint
    assert Pseudonyms(KEY).rule.key_fingerprint.encode() in data


def test_a_store_older_than_its_rule_is_judged_by_its_entries(store: Store) -> None:
    assert not check_rule(store.location, Pseudonyms(KEY))
    publish(store, "P001")
    with pytest.raises(UsageError, match="holds plain patient ids"):
        settle_rule(store, Pseudonyms(KEY))
    settle_rule(store, PlainIds())


def test_pseudonyms_in_a_store_without_a_rule_admit_no_plain_id(store: Store) -> None:
    publish(store, Pseudonyms(KEY).key("P001"))
    with pytest.raises(UsageError, match="holds pseudonyms"):
        settle_rule(store, PlainIds())
    settle_rule(store, Pseudonyms(KEY))


def test_the_rule_is_no_fault_of_a_store(store: Store) -> None:
    settle_rule(store, PlainIds())
    assert store.verify().ok
