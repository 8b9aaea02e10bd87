"""make-certs.sh: an authority and certificates that openssl and Dask accept, in files that nobody else reads."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

MAKE = Path(__file__).resolve().parents[3] / "deploy/tls/make-certs.sh"


def make(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(MAKE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def openssl(*arguments: object) -> str:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certs") / "tls"
    done = make(folder, "scheduler", "scheduler.engram.svc", "10.0.0.3", "fd00::7")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_certificate_is_of_the_authority(made):
    assert "OK" in openssl("verify", "-x509_strict", "-CAfile", made / "ca.pem", made / "cert.pem")
    for purpose in ("sslserver", "sslclient"):
        openssl("verify", "-purpose", purpose, "-CAfile", made / "ca.pem", made / "cert.pem")


def test_a_certificate_signs_no_other(made):
    text = openssl("x509", "-in", made / "cert.pem", "-noout", "-text")
    assert "CA:FALSE" in text
    assert "Certificate Sign" not in text
    assert "CA:TRUE, pathlen:0" in openssl("x509", "-in", made / "ca.pem", "-noout", "-text")


def test_keys_are_on_p256_and_belong_to_their_certificates(made):
    for key, certificate in (("key.pem", "cert.pem"), ("ca-key.pem", "ca.pem")):
        assert "prime256v1" in openssl("pkey", "-in", made / key, "-noout", "-text")
        public = openssl("x509", "-in", made / certificate, "-noout", "-pubkey")
        assert openssl("pkey", "-in", made / key, "-pubout") == public


def test_names_and_addresses_are_in_the_certificate(made):
    text = openssl("x509", "-in", made / "cert.pem", "-noout", "-ext", "subjectAltName")
    for name in (
        "DNS:localhost",
        "DNS:scheduler",
        "DNS:scheduler.engram.svc",
        "IP Address:127.0.0.1",
        "IP Address:10.0.0.3",
    ):
        assert name in text
    assert re.search(r"IP Address:FD00:0:0:0:0:0:0:7", text)


def test_a_certificate_is_good_for_at_most_825_days(made, tmp_path):
    day = 86400
    openssl("x509", "-in", made / "cert.pem", "-noout", "-checkend", 824 * day)
    over = ["openssl", "x509", "-in", str(made / "cert.pem"), "-noout", "-checkend", str(826 * day)]
    assert subprocess.run(over, capture_output=True, check=False).returncode == 1
    for days in ("826", "0", "-1", "long", ""):
        assert make(tmp_path / "tls", ENGRAM_TLS_DAYS=days).returncode == (0 if days == "" else 2), days


def test_files_are_their_owners_alone(made):
    assert sorted(path.name for path in made.iterdir()) == ["ca-key.pem", "ca.pem", "cert.pem", "key.pem"]
    for path in (made, *made.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_nothing_is_overwritten(made):
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    done = make(made)
    assert done.returncode == 2
    assert "is not overwritten" in done.stderr
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_an_authority_signs_another_certificate_and_keeps_its_key(made, tmp_path):
    assert make("--ca", made, tmp_path / "second", "worker").returncode == 0
    second = tmp_path / "second"
    assert sorted(path.name for path in second.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    assert (second / "ca.pem").read_bytes() == (made / "ca.pem").read_bytes()
    assert "OK" in openssl("verify", "-CAfile", made / "ca.pem", second / "cert.pem")
    serial = [openssl("x509", "-in", folder / "cert.pem", "-noout", "-serial") for folder in (made, second)]
    assert serial[0] != serial[1]


def test_two_authorities_do_not_trust_each_other(made, tmp_path):
    assert make(tmp_path / "other").returncode == 0
    command = ["openssl", "verify", "-CAfile", str(made / "ca.pem"), str(tmp_path / "other" / "cert.pem")]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected OUT"),
        (["--help"], "got the option"),
        (["--ca", "OUT"], "expected --ca FOLDER OUT"),
        (["--ca", "/nonexistent", "OUT"], "cannot be read"),
        (["OUT", "bad name"], "no host name"),
        (["OUT", "a,DNS:evil"], "no host name"),
    ],
)
def test_a_wrong_call_is_refused_and_makes_nothing(tmp_path, arguments, said):
    given = [str(tmp_path / one) if one == "OUT" else one for one in arguments]
    done = make(*given)
    assert done.returncode == 2
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []
