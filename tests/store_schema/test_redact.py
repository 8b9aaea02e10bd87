"""Secrets do not survive redaction, and other words do."""

import pytest

from store_schema.redact import redact

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "text",
    [
        f"could not read s3://key:{SECRET}@bucket/x",
        f"GET https://host/x?X-Amz-Signature={SECRET}&X-Amz-Date=1 failed",
        f"https://host/x?sig={SECRET}'",
        f"<Url>https://host/x?X-Amz-Date=1&amp;X-Amz-Signature={SECRET}</Url>",
        f'{{"url": "https://host/x?X-Amz-Date=1\\u0026X-Amz-Signature={SECRET}"}}',
        f"Authorization: Bearer {SECRET}",
        f"x-api-key: {SECRET}",
    ],
)
def test_secret_in_an_address_or_header_is_taken_out(text: str) -> None:
    assert SECRET not in redact(text, {})
    assert SECRET[-12:] not in redact(text, {})


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "PGPASSWORD"])
@pytest.mark.parametrize("form", [SECRET, "wJalrXUtnFEMI%2FK7MDENG%2BbPxRfiCYEXAMPLEKEY"])
def test_secret_of_the_environment_is_taken_out_anywhere(form: str, name: str) -> None:
    text = redact(f"the server said {form}!", {name: SECRET})
    assert text == "the server said ***!"


def test_key_of_the_service_is_taken_out_but_for_its_id() -> None:
    """Whoever's it is: a service may tell of another key than the one in the environment."""
    key = "engram_0123456789ab_" + "k" * 43
    assert redact(f"the key {key}!", {}) == "the key engram_0123456789ab_***!"
    assert "kkkkk" not in redact(f"Authorization: Bearer {key}", {})


@pytest.mark.parametrize(
    "text",
    [
        "/data/store/commits/view/P001/CT/skeleton/000000.json is not there.",
        "https://host/v1/projects/p/engram.json answered 503",
        "expected a = b, came c = d",
        "e-mail a@b.org",
        "",
    ],
)
def test_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert redact(text, {"AWS_SECRET_ACCESS_KEY": "", "ENGRAM_API_KEY": "ab"}) == text
