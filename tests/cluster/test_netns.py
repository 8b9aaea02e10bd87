"""The network that the other tests of this folder stand on: hosts reach each other, are cut off in two ways, and leave nothing."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .netns import PREFIX, Network, ip, network, until
from .wire import tapped

ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], 7)) as server:
    while True:
        connection, _ = server.accept()
        while data := connection.recv(1000):
            connection.sendall(data.upper())
"""


@pytest.fixture(scope="module")
def pair(needs_namespaces, tmp_path_factory):
    """Two hosts; the first one answers at port 7."""
    with network(("first", "second")) as made:
        log = tmp_path_factory.mktemp("pair") / "log"
        first = made.hosts["first"]
        first.start([sys.executable, "-c", ECHO, first.address], log=log, environment=os.environ)
        until(lambda: reaches(made), "the first host to answer", patience_s=30)
        yield made


def ask(connection: socket.socket, words: bytes) -> bytes:
    connection.sendall(words)
    return connection.recv(1000)


def connect(made: Network) -> socket.socket:
    return socket.create_connection((made.hosts["first"].address, 7), timeout=1)


def reaches(made: Network) -> bool:
    try:
        with connect(made) as connection:
            return ask(connection, b"word") == b"WORD"
    except OSError:
        return False


def test_hosts_reach_each_other_by_their_own_addresses(pair):
    there = (pair.hosts["first"].address, 7)
    command = f"import socket; s = socket.create_connection({there}, 5); s.sendall(b'word'); print(s.recv(9))"
    told = ip("netns", "exec", pair.hosts["second"].namespace, sys.executable, "-c", command)
    assert told.strip() == "b'WORD'"


@pytest.mark.parametrize("kind", ["down", "silent"])
def test_a_host_that_is_cut_off_is_silent_and_its_connections_live_on_when_it_is_back(pair, kind):
    with connect(pair) as connection:
        assert ask(connection, b"before") == b"BEFORE"
        pair.cut("first", kind)
        try:
            with pytest.raises(TimeoutError):
                ask(connection, b"meanwhile")
            carrier = ip("-n", pair.switch, "-o", "link", "show", "first")
            assert ("LOWER_UP" in carrier) == (kind == "silent"), "a silent cut leaves the interfaces up"
        finally:
            pair.bring_back("first")
        connection.settimeout(30)
        assert connection.recv(1000) == b"MEANWHILE"


def test_what_goes_over_the_wire_is_read_along(pair):
    with tapped(pair.switch) as tap, connect(pair) as connection:
        ask(connection, b"a word that nobody encrypts")
        own = connection.getsockname()[1]
    here, there = (pair.here, own), (pair.hosts["first"].address, 7)
    assert tap.port(7) == {
        (*here, *there): b"a word that nobody encrypts",
        (*there, *here): b"A WORD THAT NOBODY ENCRYPTS",
    }
    assert tap.dropped == 0


def namespaces() -> set[str]:
    return {one.split()[0] for one in ip("netns", "list").splitlines() if one.startswith(PREFIX)}


def ended(pid: int) -> bool:
    """Whether nothing of a process is left but what its parent has not asked about."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


LEAVER = """
import os, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import netns
with netns.network(("one",)) as made:
    made.hosts["one"].start(["sleep", "1000"], log=netns.Path(sys.argv[3]), environment=os.environ)
    print(made.hosts["one"].namespace, made.hosts["one"].processes[0].pid, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_one(needs_namespaces, tmp_path):
    folder = Path(__file__).parent
    command = [sys.executable, "-c", LEAVER, str(folder), str(folder.parent / "servers"), str(tmp_path / "log")]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    assert told[0] in namespaces()
    with network(("other",)):
        assert told[0] not in namespaces()
        assert ended(int(told[1]))


def own_interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").glob("eg*")}


def test_a_network_leaves_nothing(needs_namespaces, tmp_path):
    before = own_interfaces()
    with network(("one", "two")) as made:
        process = made.hosts["one"].start(["sleep", "1000"], log=tmp_path / "log", environment=os.environ)
        own = {host.namespace for host in made.hosts.values()} | {made.switch}
        assert own <= namespaces()
    assert process.wait(10) == -9
    assert not own & namespaces()
    # the kernel takes interfaces of a deleted namespace away a moment later
    until(lambda: not own_interfaces() - before, "the interface on this machine to go")
