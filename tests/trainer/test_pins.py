"""Which snapshot a run reads: made, given, refused."""

import pytest

from store_schema import EntryKey, create_store
from store_schema.errors import NotCommittedError, UsageError
from trainer.pins import pin_views, wanted_entries

WANTED = {"tiny": (("PET", "spine"), ("CT", "spine"))}
KEY = EntryKey("P000", "PET", "spine")


@pytest.fixture
def store(tmp_path, kit):
    made = create_store(tmp_path / "store")
    kit.fill(made, kit.draw(3))
    return made


def other_view(store, kit):
    view = store.put_view(kit.view.model_copy(update={"name": "other", "recipe": 2}))
    store.publish(view, KEY, kit.entry(0.0, [1]), input_sha256="a" * 64)
    return view


def test_wanted_entries_are_each_modality_of_each_models_region_once(config, kit):
    models = [*kit.settings["models"], {**kit.settings["models"][1], "name": "again", "clinical": True}]
    assert wanted_entries(config(models=models)) == WANTED


def test_a_new_snapshot_pins_only_what_the_models_read(store, kit):
    view = store.resolve_view("tiny")
    store.publish(view, EntryKey("P000", "PET", "skeleton"), kit.entry(0.0, [1]), input_sha256="a" * 64)
    (pin,) = pin_views(store, {"tiny": (("PET", "spine"),)})
    assert {str(key) for key in pin.snapshot.keys} == {"P000/PET/spine", "P001/PET/spine", "P002/PET/spine"}
    assert pin.available == {f"{view}/PET/spine": {"P000", "P001", "P002"}}


def test_the_same_store_gives_the_same_snapshot(store):
    assert pin_views(store, WANTED)[0].snapshot.id == pin_views(store, WANTED)[0].snapshot.id


def test_entries_of_several_inputs_are_refused_unless_the_latest_are_meant(store, kit):
    store.publish(store.resolve_view("tiny"), KEY, kit.entry(9.0, [5]), input_sha256="f" * 64)
    with pytest.raises(UsageError, match=r"1 entries .* several inputs \(P000/PET/spine\).*--latest"):
        pin_views(store, WANTED)
    (pin,) = pin_views(store, WANTED, latest=True)
    assert pin.snapshot.commit(KEY).number == 1


def test_a_given_snapshot_is_read_although_there_are_several_inputs(store, kit):
    view = store.resolve_view("tiny")
    given = store.make_snapshot(view)
    store.publish(view, KEY, kit.entry(9.0, [5]), input_sha256="f" * 64)
    (pin,) = pin_views(store, WANTED, given=[given[:12]])
    assert pin.snapshot.id == given
    assert pin.snapshot.commit(KEY).number == 0


def test_a_snapshot_of_a_view_that_no_model_reads_is_refused(store, kit):
    other = other_view(store, kit)
    with pytest.raises(UsageError, match=f"is of view {other}, which no model of the config reads"):
        pin_views(store, WANTED, given=[store.make_snapshot(other)])


def test_two_snapshots_of_one_view_are_refused(store):
    view = store.resolve_view("tiny")
    pair = [store.make_snapshot(view), store.make_snapshot(view, [KEY])]
    with pytest.raises(UsageError, match="two snapshots of view"):
        pin_views(store, WANTED, given=pair)


def test_what_is_not_in_the_store_is_refused(store):
    with pytest.raises(NotCommittedError, match="'nosuch' means 0 views"):
        pin_views(store, {"nosuch": (("PET", "spine"),)})
    with pytest.raises(NotCommittedError, match="snapshot"):
        pin_views(store, WANTED, given=["abc"])
    with pytest.raises(NotCommittedError, match=r"no entry PET/hip: it has CT/spine, PET/spine"):
        pin_views(store, {"tiny": (("PET", "hip"),)})


def test_one_view_under_two_names_is_refused(store):
    with pytest.raises(UsageError, match="one view in two ways"):
        pin_views(store, {**WANTED, store.resolve_view("tiny"): (("PET", "spine"),)})
