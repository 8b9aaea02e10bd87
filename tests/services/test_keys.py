"""Keys: drawn at random, shown once, kept as a digest, compared in a time that tells nothing."""

import hashlib
import hmac
import re
from itertools import product

import pytest

from services import keys
from services.keys import SCOPES, digest, draw_key, includes, proves, split_key


def test_a_key_carries_an_id_and_256_random_bits():
    key = draw_key()
    assert re.fullmatch(r"engram_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", key.text)
    assert split_key(key.text) == (key.key_id, key.text.removeprefix(f"engram_{key.key_id}_"))


def test_no_two_keys_share_an_id_or_a_secret():
    drawn = [draw_key() for _ in range(2000)]
    assert len({key.key_id for key in drawn}) == len({key.secret_sha256 for key in drawn}) == 2000


def test_what_is_kept_is_the_digest_of_the_secret_alone():
    key = draw_key()
    _, secret = split_key(key.text)
    assert key.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in key.secret_sha256


def test_a_key_that_is_printed_by_mistake_tells_no_secret():
    key = draw_key()
    _, secret = split_key(key.text)
    for shown in (repr(key), str(key), f"{key}"):
        assert secret not in shown
        assert key.secret_sha256 not in shown
        assert key.key_id in shown


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.upper(),
        lambda text: text.replace("engram_", "Engram_"),
        lambda text: text.replace("engram_", ""),
        lambda text: text[:-1] + "=",
        lambda text: text[:-1] + "é",
        lambda text: text[:-1] + "\0",
        lambda text: text[:7] + "٣" + text[8:],
        lambda text: text[:7] + "g" + text[8:],
        lambda _: "",
        lambda text: text + text,
    ],
)
def test_a_text_that_is_no_key_is_none(change):
    assert split_key(change(draw_key().text)) is None


def test_only_the_very_secret_proves_a_key():
    key, other = draw_key(), draw_key()
    _, secret = split_key(key.text)
    _, foreign = split_key(other.text)
    assert proves(secret, key.secret_sha256)
    for wrong in (foreign, secret[:-1], secret + "A", secret.swapcase(), "", key.secret_sha256):
        assert not proves(wrong, key.secret_sha256)


def test_digests_are_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(keys, "hmac", type("Recorded", (), {"compare_digest": staticmethod(compare)}))
    assert proves("secret", digest("secret"))
    assert not proves("other", digest("secret"))
    assert compared == [(digest("secret"), digest("secret")), (digest("other"), digest("secret"))]


def test_each_scope_includes_those_before_it():
    allowed = {(scope, needed) for scope, needed in product(SCOPES, SCOPES) if includes(scope, needed)}
    assert allowed == {
        ("read", "read"),
        ("write", "read"),
        ("write", "write"),
        ("admin", "read"),
        ("admin", "write"),
        ("admin", "admin"),
    }
