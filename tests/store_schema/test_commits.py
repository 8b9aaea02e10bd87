"""The commit protocol's arithmetic: which number is current, what an input is, how often a writer asks."""

import dataclasses

import pytest

from store_schema import Store
from store_schema.commits import MAX_TRIES, commit_path, current_number, highest, numbers_in
from store_schema.errors import AlreadyExistsError, BackendError, ObjectMissingError
from store_schema.testing import HookedLocation, WrappedLocation, digest_of, example_entry


class CountingLocation(WrappedLocation):
    """Counts the requests it passes on."""

    def __init__(self, inner):
        super().__init__(inner)
        self.requests: list[str] = []

    def get(self, path):
        self.requests.append("GET")
        return super().get(path)

    def put(self, path, data):
        self.requests.append("PUT")
        super().put(path, data)

    def create(self, path, data):
        self.requests.append("CREATE")
        super().create(path, data)

    def size_bytes(self, path):
        self.requests.append("HEAD")
        return super().size_bytes(path)

    def paths(self, prefix):
        self.requests.append("LIST")
        return super().paths(prefix)

    def children(self, prefix):
        self.requests.append("LIST")
        return super().children(prefix)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 8, 9, 100, 1000])
def test_probing_finds_the_highest_number_in_logarithmic_steps(length: int) -> None:
    asked = []

    def exists(number: int) -> bool:
        asked.append(number)
        return number < length

    assert highest(exists) == (length - 1 if length else None)
    assert asked[:3] == [0, 1, 2][: len(asked)]
    assert len(asked) <= 2 + 2 * length.bit_length()


def test_only_names_of_six_digits_are_commits() -> None:
    assert numbers_in(
        ["000002.json", "000010.json", "7.json", "0000003.json", "x", "000004.json.tmp", "٠٠٠٠٠١.json"]
    ) == [2, 10]


def test_publishing_costs_one_put_an_object_the_commit_and_one_probe(store: Store, view: str, keys) -> None:
    location = CountingLocation(store.location)
    counted = dataclasses.replace(store, location=location)
    counted.view(view)
    location.requests.clear()
    commit = counted.publish(
        view, dataclasses.replace(keys[0], patient="new"), example_entry(), input_sha256=digest_of("x")
    )
    assert location.requests == ["LIST", *["PUT"] * len(commit.commit.objects), "CREATE"]


def test_reading_from_a_snapshot_costs_the_commit_and_the_chunk(store: Store, snapshot, keys) -> None:
    location = CountingLocation(store.location)
    dataclasses.replace(snapshot, location=location).read(keys[0], arrays=["mean_map"])
    assert location.requests == ["GET", "GET"]


def test_commit_that_vanishes_is_an_error_and_not_an_older_one(store: Store, view: str, keys) -> None:
    """A listing may show a commit that cannot be read: then nothing is current, rather than its predecessor."""

    class Vanishing(WrappedLocation):
        def children(self, prefix):
            return [*super().children(prefix), "000001.json"]

    vanishing = Vanishing(store.location)
    assert current_number(vanishing, view, keys[0]) == 1
    with pytest.raises(ObjectMissingError):
        dataclasses.replace(store, location=vanishing).read(view, keys[0])


def test_writer_gives_up_where_a_backend_refuses_for_ever(store: Store, view: str, keys) -> None:
    calls = []

    def refuse(path: str, _data: bytes) -> None:
        calls.append(path)
        raise AlreadyExistsError("409")

    broken = dataclasses.replace(store, location=HookedLocation(store.location, refuse))
    key = dataclasses.replace(keys[0], patient="new")
    with pytest.raises(BackendError, match=f"neither created nor read in {MAX_TRIES} tries"):
        broken.publish(view, key, example_entry(), input_sha256=digest_of("x"))
    assert set(calls) == {commit_path(view, key, 0)}
