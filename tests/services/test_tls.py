"""The service behind TLS: every program's store works over https, and a certificate that nobody vouches for is refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services import operations
from services.database.migrate import migrate
from services.service import Service
from services.settings import Settings
from store_schema import EntryKey, open_store
from store_schema.errors import BackendError
from store_schema.testing import digest_of, example_entry, example_view


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate of its own for localhost."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed: nothing is tested over TLS")
    folder = tmp_path_factory.mktemp("tls")
    names = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
    ]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(
        [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def address(certificate, tmp_path, beside, monkeypatch):
    service = Service.open(Settings(data=tmp_path, reconcile_s=0, public_url="https://localhost"))
    migrate(service.database)
    operations.create_project(service, "alpha")
    monkeypatch.setenv("ENGRAM_API_KEY", operations.make_key(service, "alpha", label="w", scope="write").text)
    tls = {"ssl_certfile": str(certificate / "cert.pem"), "ssl_keyfile": str(certificate / "key.pem")}
    # The plain probe of `running` is not made over TLS: it waits for the server's own word.
    with beside("serving").running(service, **tls) as server:
        yield f"https://localhost:{server.port}/v1/projects/alpha"


def test_a_store_over_https_is_written_and_read(address, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    store = open_store(address)
    view, key = store.put_view(example_view()), EntryKey("P1", "CT", "spine")
    done = store.publish(view, key, example_entry(1), input_sha256=digest_of("1"))
    assert done.outcome == "committed"
    assert store.verify().ok
    told = subprocess.run(
        [str(Path(sys.executable).with_name("store-schema")), "ls", address, view],
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(key) in told.stdout


def test_a_certificate_that_nobody_vouches_for_is_refused(address):
    with pytest.raises(BackendError, match=r"(?i)certificate"):
        open_store(address)
