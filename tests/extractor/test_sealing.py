"""Envelopes: what is closed opens with the same secret alone, and whoever lacks it is told which variable to set."""

import pickle

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from extractor.config import ExtractConfig
from extractor.run import RunOptions, run
from extractor.sealing import PURPOSE, Envelope, Sealed, envelope, key_here, key_lack
from store_schema.errors import UsageError
from store_schema.pseudonyms import KEY_VARIABLE, Pseudonyms

KEY, OTHER = "a key of many bytes", "another key of many bytes"
HERE, THERE = {KEY_VARIABLE: KEY}, {KEY_VARIABLE: OTHER}
FINGERPRINT = Pseudonyms(KEY.encode()).rule.key_fingerprint
CONFIG = ExtractConfig(model="mini", weights="random:0", pet_units="suv", derive=("spine_dilated",))


@given(thing=st.recursive(st.text() | st.binary() | st.integers(), lambda one: st.lists(one) | st.tuples(one, one)))
def test_what_is_closed_opens_where_the_secret_is_the_same(thing):
    for fingerprint in (None, FINGERPRINT):
        assert envelope(fingerprint, HERE).open(envelope(fingerprint, HERE).close(thing)) == thing


@given(text=st.text(min_size=8))
def test_what_is_sealed_shows_neither_content_nor_repetition(text):
    first, second = (envelope(FINGERPRINT, HERE).close([text]) for _ in range(2))
    assert first != second
    assert text.encode("utf-8", "surrogatepass") not in first
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(first)


@given(place=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_what_was_altered_on_its_way_is_refused(place, bit):
    data = bytearray(envelope(FINGERPRINT, HERE).close("a study"))
    data[place % (len(data) - 4)] ^= 1 << bit
    with pytest.raises(UsageError, match=f"Set {KEY_VARIABLE} to the same value in every process"):
        envelope(FINGERPRINT, HERE).open(bytes(data))


@pytest.mark.parametrize(
    ("environment", "said"),
    [({}, "has no secret in"), ({KEY_VARIABLE: "short"}, "has no secret in"), (THERE, "has another secret")],
)
def test_a_process_that_could_open_nothing_is_told_what_to_set(environment, said):
    with pytest.raises(UsageError, match=said) as caught:
        envelope(FINGERPRINT, environment)
    assert f"set {KEY_VARIABLE} in its environment" in str(caught.value)
    assert not [key for key in (KEY, OTHER, "short") if key in str(caught.value)]


def test_another_secret_opens_nothing():
    sealed = envelope(FINGERPRINT, HERE).close("a study")
    with pytest.raises(UsageError, match="sealed with another secret"):
        envelope(key_here(THERE), THERE).open(sealed)


def test_nobody_lacks_a_secret_where_nothing_is_sealed():
    assert key_lack(None, None) is None
    assert key_lack("0" * 16, None) is None
    assert type(envelope(None, {})) is Envelope


def test_the_key_of_an_envelope_is_shown_nowhere_and_does_not_travel():
    sealing = envelope(FINGERPRINT, HERE)
    assert isinstance(sealing, Sealed)
    assert repr(sealing) == "Sealed()"
    with pytest.raises(TypeError, match="does not travel"):
        pickle.dumps(sealing)


@given(key=st.binary(min_size=16), purpose=st.binary())
def test_the_key_that_seals_is_the_hkdf_of_another_implementation(key, purpose):
    expected = HKDF(SHA256(), 32, salt=None, info=purpose).derive(key)
    assert Pseudonyms(key).derived_key(purpose) == expected
    assert Pseudonyms(key).derived_key(purpose + b"x") != expected
    assert Pseudonyms(key).derived_key(PURPOSE).hex()[:16] != Pseudonyms(key).rule.key_fingerprint


@pytest.mark.parametrize("options", [{"jobs": 1}, {"jobs": None}, {"scheduler": "tcp://127.0.0.1:9"}])
@pytest.mark.parametrize("key", ["", OTHER])
def test_a_run_whose_processes_could_open_nothing_is_refused_before_anything_is_done(
    tmp_path, monkeypatch, options, key
):
    monkeypatch.setenv(KEY_VARIABLE, key)
    options = RunOptions(tmp_path / "none.csv", str(tmp_path / "store"), ids=Pseudonyms(KEY.encode()), **options)
    with pytest.raises(UsageError, match=f"set {KEY_VARIABLE} in its environment"):
        run(CONFIG, options, console=Console(quiet=True))
    assert not list(tmp_path.iterdir())
