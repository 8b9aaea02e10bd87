"""Certificates that do not fit each other, an address or a server are refused in words that say which and why."""

import os
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import certificates
import pytest

from store_schema.errors import UsageError
from store_schema.tls import TlsFiles, files_for, place_of, unguarded
from store_schema.tls_probe import check_server


def nothing_set(name, default):
    """No setting of Dask's."""
    return default


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return certificates.Authority.make(tmp_path_factory.mktemp("ca"), "Ward 7")


@pytest.fixture(scope="module")
def files(ca):
    return TlsFiles(*ca.files("client"))


def test_files_that_fit_make_a_connection_that_believes_their_ca_alone(files):
    context = files.context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert [dict(pair for part in one["subject"] for pair in part) for one in context.get_ca_certs()] == [
        {"commonName": "Ward 7"}
    ]


def test_all_three_files_are_given_or_none():
    assert TlsFiles.of(None, None, None) is None
    assert TlsFiles.of("a", "b", "c") == TlsFiles("a", "b", "c")
    with pytest.raises(UsageError, match=r"--tls-key \(ENGRAM_TLS_KEY\) is missing: give all three or none"):
        TlsFiles.of("a", "b", None)


@pytest.mark.parametrize(("member", "option"), [("ca", "--tls-ca"), ("cert", "--tls-cert"), ("key", "--tls-key")])
def test_a_file_that_is_not_there_is_named(files, member, option):
    missing = TlsFiles(**{**vars(files), member: "/no/such.pem"})
    with pytest.raises(UsageError, match=f"{option} names /no/such.pem, and there is no such file"):
        missing.context()


def test_a_key_of_another_certificate_is_named(ca, files):
    _, _, other = ca.files("other")
    with pytest.raises(UsageError, match=r"other-key\.pem is not the key of the certificate --tls-cert .*client\.pem"):
        TlsFiles(files.ca, files.cert, other).context()


def test_a_file_that_holds_no_certificate_is_named(files):
    with pytest.raises(UsageError, match=r"--tls-ca .*client-key\.pem holds no certificate in PEM format"):
        TlsFiles(files.key, files.cert, files.key).context()


def test_what_is_no_pair_of_certificate_and_key_is_named(files):
    with pytest.raises(UsageError, match="are not a certificate and its private key in PEM format"):
        TlsFiles(files.ca, files.key, files.cert).context()


def test_an_encrypted_key_is_refused_and_no_passphrase_asked_for(ca, files, tmp_path):
    encrypted = tmp_path / "key.pem"
    encrypted.write_bytes(certificates.plain(ca.key, b"secret"))
    with pytest.raises(UsageError, match=r"key\.pem is encrypted, .* write it without one"):
        TlsFiles(files.ca, files.cert, str(encrypted)).context()


@pytest.mark.parametrize("address", ["tcp://head:8786", "head:8786", "ucx://head:8786"])
def test_files_and_an_address_without_tls_do_not_go_together(files, address):
    with pytest.raises(UsageError, match=f"ask for TLS, and {address} is an address without it: write tls://"):
        files_for(address, files, nothing_set, role="client")


def test_an_address_of_tls_asks_for_files(files):
    with pytest.raises(UsageError, match=r"reached by TLS alone, .* add --tls-ca, --tls-cert, --tls-key"):
        files_for("tls://head:8786", None, nothing_set, role="client")
    assert files_for("tls://head:8786", files, nothing_set, role="client") == files
    assert files_for("tcp://head:8786", None, nothing_set, role="client") is None


def test_dasks_own_settings_serve_where_no_file_is_given(files, tmp_path):
    both = tmp_path / "both.pem"
    both.write_text(Path(files.cert).read_text() + Path(files.key).read_text())
    tls = {"ca-file": files.ca, "client.cert": files.cert, "client.key": files.key, "worker.cert": str(both)}
    settings = {f"distributed.comm.tls.{name}": file for name, file in tls.items()}
    assert files_for("tls://h:1", None, settings.get, role="client") == files
    assert files_for("tls://h:1", None, settings.get, role="worker") == TlsFiles(files.ca, str(both), str(both))
    del settings["distributed.comm.tls.client.cert"]
    with pytest.raises(UsageError, match="reached by TLS alone"):
        files_for("tls://h:1", None, settings.get, role="client")


@pytest.mark.parametrize("program", ["extractor", "trainer"])
def test_variables_of_dasks_own_serve_where_no_file_is_given(files, program):
    names = ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY")
    paths = (files.ca, files.cert, files.key)
    variables = {f"DASK_DISTRIBUTED__COMM__TLS__{name}": path for name, path in zip(names, paths, strict=True)}
    code = f"from {program}.cluster import checked_tls; print(checked_tls('tls://h:1', None, 'client'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(files), done.stderr


@pytest.mark.parametrize(
    "address", ["tcp://10.1.2.3:8786", "head:8786", "tcp://[fe80::1]:8786", "ws://head:8786", "ucx://head:8786"]
)
def test_an_open_address_is_warned_of(address):
    assert "whoever reaches this scheduler or its workers runs code there" in (unguarded(address) or "")


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:8786",
        "tcp://localhost:8786",
        "tcp://[::1]:8786",
        "tls://head:8786",
        "wss://head:8786",
        "inproc://1",
    ],
)
def test_an_address_of_this_machine_or_of_tls_is_not_warned_of(address):
    assert unguarded(address) is None


@pytest.mark.parametrize(
    ("address", "place"), [("tls://[::1]:8", ("::1", 8)), ("h:8", ("h", 8)), ("h", None), ("h:x", None)]
)
def test_an_address_names_host_and_port(address, place):
    assert place_of(address) == place


@contextmanager
def serving(files: TlsFiles | None, *, greets: bool = True):
    """A server on loopback that asks for certificates of its own CA, or that speaks no TLS and first."""
    context = None
    if files is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(files.ca)
        context.load_cert_chain(files.cert, files.key)
        context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                channel, _ = listener.accept()
            except OSError:
                return
            try:
                channel.settimeout(5)
                with context.wrap_socket(channel, server_side=True) if context else channel as spoken:
                    if greets:
                        spoken.sendall(b"greeting")
            except OSError:
                channel.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"{'tls' if context else 'tcp'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def test_a_server_and_a_client_of_one_ca_understand_each_other(ca, files):
    with serving(TlsFiles(*ca.files("server"))) as address:
        check_server(address, files)


def test_a_server_of_another_ca_is_told_by_name(files, tmp_path):
    other = certificates.Authority.make(tmp_path, "Ward 8")
    with (
        serving(TlsFiles(*other.files("server"))) as address,
        pytest.raises(UsageError, match=r"is signed by “Ward 8”, and --tls-ca .*ca\.pem holds “Ward 7”"),
    ):
        check_server(address, files)


def test_a_server_of_a_ca_of_the_same_name_is_told_apart(files, tmp_path):
    other = certificates.Authority.make(tmp_path, "Ward 7")
    with (
        serving(TlsFiles(*other.files("server"))) as address,
        pytest.raises(UsageError, match="is signed by a CA of the same name with another key"),
    ):
        check_server(address, files)


def test_a_certificate_that_has_expired_is_told(ca, files):
    with (
        serving(TlsFiles(*ca.files("old", days=(-3, -1)))) as address,
        pytest.raises(UsageError, match="is refused: certificate has expired"),
    ):
        check_server(address, files)


def test_a_server_that_refuses_the_client_is_told(ca, files, tmp_path):
    _, cert, key = certificates.Authority.make(tmp_path, "Ward 8").files("client")
    with (
        serving(TlsFiles(*ca.files("server"))) as address,
        pytest.raises(UsageError, match=rf"the scheduler at {address} refuses the certificate {cert}"),
    ):
        check_server(address, TlsFiles(files.ca, cert, key))


def test_a_server_without_tls_is_told(files):
    with (
        serving(None) as address,
        pytest.raises(UsageError, match="does not speak TLS: call it tcp://"),
    ):
        check_server(address.replace("tcp", "tls"), files)


def test_a_plain_client_is_told_of_a_server_with_tls(ca):
    with serving(TlsFiles(*ca.files("server"))) as address:
        plain = address.replace("tls", "tcp")
        with pytest.raises(UsageError, match=f"the scheduler at {plain} speaks TLS: call it tls://"):
            check_server(plain, None)


def test_plain_client_and_server_are_let_alone_and_so_is_nobody(files):
    with serving(None) as address:
        check_server(address, None)
    check_server("tcp://127.0.0.1:9", None)
    check_server("tls://127.0.0.1:9", files)
    check_server("inproc://somewhere", None)
