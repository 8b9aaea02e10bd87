"""Laws of the store over all entries, keys and orders of inputs."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from store_schema import Entry, EntryKey, Store
from store_schema.arrays import content_sha256
from store_schema.errors import InvalidKeyError, ObjectAlteredError
from store_schema.keys import check_id
from store_schema.location import check_path
from store_schema.records import canonical_json, seal, unseal
from store_schema.testing import StoreContract, digest_of, entries, example_entry, example_view, ids, json_values, keys
from store_schema.writer import Publication

assert StoreContract  # the strategies come with the contract


def test_what_is_read_is_what_was_written(place: Any) -> None:
    def law(entry: Entry, key: EntryKey) -> None:
        store = place.new()
        view = store.put_view(example_view())
        commit = store.publish(view, key, entry, input_sha256=digest_of("x")).commit
        read = store.snapshot(store.make_snapshot(view)).read(key)
        assert store.keys(view) == [key]
        assert set(read.arrays) == set(entry.arrays)
        for name, values in entry.arrays.items():
            assert read.arrays[name].dtype == values.dtype
            assert read.arrays[name].tobytes() == values.tobytes()
        assert read.attributes == json.loads(json.dumps(entry.attributes))
        assert content_sha256(read.arrays) == commit.content_sha256
        assert store.verify().ok

    place.hold(law, 60, entry=entries(), key=keys())


@settings(max_examples=60, deadline=None)
@given(entry=entries(), data=st.data())
def test_content_digest_changes_with_every_bit(entry: Entry, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(entry.arrays)))
    changed = bytearray(entry.arrays[name].tobytes())
    bit = data.draw(st.integers(0, 8 * len(changed) - 1))
    changed[bit // 8] ^= 1 << (bit % 8)
    other = np.frombuffer(bytes(changed), entry.arrays[name].dtype).reshape(entry.arrays[name].shape)
    assert content_sha256({**entry.arrays, name: other}) != content_sha256(entry.arrays)


@given(key=keys())
def test_key_reads_back_from_its_text(key: EntryKey) -> None:
    assert EntryKey.parse(str(key)) == key
    assert check_path(f"commits/v/{key}/000000.json").count("/") == 5


@given(text=st.text(max_size=70))
def test_any_text_is_refused_or_is_one_harmless_segment(text: str) -> None:
    try:
        check_id("patient", text)
    except InvalidKeyError:
        return
    assert text.isascii()
    assert 0 < len(text) <= 64
    assert not set(text) & set("/\\ \n\0")
    assert ".." not in text
    assert text[0].isalnum()
    assert text[-1].isalnum()


@given(text=ids())
def test_every_id_of_the_strategy_is_one(text: str) -> None:
    assert check_id("roi", text) == text


@given(
    value=st.dictionaries(st.text(max_size=4), json_values(), max_size=3),
    position=st.integers(min_value=0),
    flip=st.integers(1, 255),
)
def test_sealed_record_opens_and_any_changed_byte_does_not(value: dict[str, object], position: int, flip: int) -> None:
    data = seal(canonical_json(value))
    body = unseal(data, where="here")
    assert json.loads(body) == value
    assert body == canonical_json(json.loads(body))
    changed = bytearray(data)
    changed[position % len(data)] ^= flip
    with pytest.raises(ObjectAlteredError, match="here does not end in its own digest"):
        unseal(bytes(changed), where="here")


class Chain(RuleBasedStateMachine):
    """Any order of publishing few inputs, against a plain list as the model of the commits."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.view = self.store.put_view(example_view())
        self.key = EntryKey("P1", "CT", "skeleton")
        self.inputs: list[str] = []

    def _publish(self, name: str, *, make_current: bool) -> Publication:
        return self.store.publish(
            self.view, self.key, example_entry(ord(name)), input_sha256=digest_of(name), make_current=make_current
        )

    @rule(name=st.sampled_from("ABC"), make_current=st.booleans())
    def publish(self, name: str, *, make_current: bool) -> None:
        outcome = self._publish(name, make_current=make_current).outcome
        if self.inputs and self.inputs[-1] == name:
            assert outcome == "done"
        elif name in self.inputs and not make_current:
            assert outcome == "superseded"
        else:
            assert outcome == "committed"
            self.inputs.append(name)

    @invariant()
    def chain_is_the_model(self) -> None:
        history = self.store.history(self.view, self.key)
        assert [commit.input_sha256 for commit in history] == [digest_of(name) for name in self.inputs]
        if history:
            read = self.store.read(self.view, self.key)
            assert np.array_equal(read.arrays["memory"], example_entry(ord(self.inputs[-1])).arrays["memory"])

    def teardown(self) -> None:
        report = self.store.verify()
        assert report.ok
        assert report.orphans == ()


def test_any_order_of_inputs_gives_the_chain_of_the_model(place: Any) -> None:
    steps = settings(place.settings_of(15), stateful_step_count=10)
    run_state_machine_as_test(lambda: Chain(place.new()), settings=steps)
