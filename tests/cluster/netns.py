"""Hosts of their own on one machine: network namespaces with addresses, behind one switch; knows no program that runs on them.

The switch is a bridge in a namespace of its own, so that no rule of this machine's firewall is asked about frames between hosts.
This machine is on the network too, as an operator would be. Namespaces carry the id of the process that made them: what a killed
process left is removed by the next one.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import uuid4

from daemons import ServerError, run, wait

PREFIX = "engramnet"
Cut = Literal["down", "silent"]
"""`down`: the host's own interface goes down, which the host is told. `silent`: the switch drops what it sends and what is sent
to it; every interface stays up, and no connection is told."""


def lack() -> str | None:
    """Why no namespace can be made here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces are made by root alone"
    if shutil.which("ip") is None:
        return "`ip` is not installed (Debian's package iproute2)"
    probe = f"{PREFIX}-{os.getpid()}-probe"
    try:
        ip("netns", "add", probe)
        try:
            ip("-n", probe, "link", "add", "probe", "type", "bridge")
            ip("-n", probe, "link", "add", "here", "type", "veth", "peer", "name", "there")
        finally:
            ip("netns", "delete", probe)
    except ServerError as error:
        return f"the kernel gives no network namespace, bridge or veth pair: {error}"
    return None


def ip(*words: str) -> str:
    """What iproute2 prints."""
    return run(["ip", *words], timeout_s=60)


@dataclass
class Host:
    """A namespace with an address, and what runs in it."""

    name: str
    namespace: str
    address: str
    port: str
    """Of the switch, where its cable ends."""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Starts a program on this host, which writes into a file; it is the leader of its own session."""
        with log.open("ab") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=dict(environment),
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def kill(self) -> None:
        """Every process on this host ends, as when its power is cut."""
        _kill_all(self.namespace)
        for process in self.processes:
            process.wait()
        self.processes.clear()


@dataclass
class Network:
    """Hosts by name, and the switch that joins them."""

    switch: str
    subnet: ipaddress.IPv4Network
    hosts: dict[str, Host]

    @property
    def here(self) -> str:
        """Address of this machine on the network."""
        return str(self.subnet[1])

    def cut(self, name: str, kind: Cut) -> None:
        """Cuts a host off from all others."""
        host = self.hosts[name]
        if kind == "down":
            ip("-n", host.namespace, "link", "set", "eth0", "down")
        else:
            ip("-n", self.switch, "link", "set", host.port, "nomaster")

    def bring_back(self, name: str) -> None:
        """Undoes a cut of either kind; the address stays."""
        host = self.hosts[name]
        ip("-n", host.namespace, "link", "set", "eth0", "up")
        ip("-n", self.switch, "link", "set", host.port, "master", "switch")


@contextmanager
def network(names: Sequence[str]) -> Iterator[Network]:
    """A network of hosts of these names until the block ends; every process in them ends with it."""
    remove_leftovers()
    run_id = f"{PREFIX}-{os.getpid()}-{uuid4().hex[:4]}"
    made = None
    try:
        made = _made(run_id, names)
        yield made
    finally:
        for host in made.hosts.values() if made else ():
            host.kill()
        _remove(run_id)


def remove_leftovers() -> None:
    """Removes networks whose process is gone."""
    for namespace in _namespaces(PREFIX):
        pid = namespace.split("-")[1]
        if not Path(f"/proc/{pid}").exists():
            _remove(f"{PREFIX}-{pid}")


def _made(run_id: str, names: Sequence[str]) -> Network:
    switch, subnet = f"{run_id}-switch", _free_subnet()
    ip("netns", "add", switch)
    ip("-n", switch, "link", "set", "lo", "up")
    # A bridge that no spanning tree holds back: a port forwards as soon as it is up.
    ip("-n", switch, "link", "add", "switch", "type", "bridge", "stp_state", "0", "forward_delay", "0")
    ip("-n", switch, "link", "set", "switch", "up")
    own = f"eg{run_id[-4:]}{os.getpid() % 100000}"
    ip("link", "add", own, "type", "veth", "peer", "name", "operator", "netns", switch)
    ip("address", "add", f"{subnet[1]}/{subnet.prefixlen}", "dev", own)
    ip("link", "set", own, "up")
    _plug(switch, "operator")
    hosts = {name: _host(run_id, name, f"{subnet[number]}", switch) for number, name in enumerate(names, start=2)}
    return Network(switch, subnet, hosts)


def _host(run_id: str, name: str, address: str, switch: str) -> Host:
    namespace, port = f"{run_id}-{name}", name
    ip("netns", "add", namespace)
    ip("-n", namespace, "link", "set", "lo", "up")
    ip("-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
    ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
    ip("-n", namespace, "link", "set", "eth0", "up")
    _plug(switch, port)
    return Host(name, namespace, address, port)


def _plug(switch: str, port: str) -> None:
    ip("-n", switch, "link", "set", port, "master", "switch")
    ip("-n", switch, "link", "set", port, "up")


def _free_subnet() -> ipaddress.IPv4Network:
    """A subnet of 10.0.0.0/8 to which this machine has no route yet."""
    known = [route["dst"] for route in json.loads(ip("-j", "-4", "route", "show", "table", "all"))]
    taken = [ipaddress.ip_network(one, strict=False) for one in known if one != "default"]
    draw = random.SystemRandom()
    while True:
        subnet = ipaddress.IPv4Network(f"10.{draw.randrange(1, 255)}.{draw.randrange(256)}.0/24")
        if not any(isinstance(one, ipaddress.IPv4Network) and one.overlaps(subnet) for one in taken if one.prefixlen):
            return subnet


def _namespaces(prefix: str) -> list[str]:
    found = json.loads(ip("-j", "netns", "list") or "[]")
    return [one["name"] for one in found if one["name"].startswith(f"{prefix}-")]


def _remove(run_id: str) -> None:
    """Ends every process of a network and deletes its namespaces, and with them their interfaces."""
    for namespace in _namespaces(run_id):
        _kill_all(namespace)
        ip("netns", "delete", namespace)


def _pids(namespace: str) -> list[int]:
    return [int(pid) for pid in ip("netns", "pids", namespace).split()]


def _kill_all(namespace: str) -> None:
    """Kills until nothing is left: a process may start another one meanwhile."""

    def empty() -> bool:
        for pid in _pids(namespace):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not _pids(namespace)

    wait(empty, f"the processes of {namespace} to end")


def until(true: Callable[[], object], what: str, *, patience_s: float = 300.0) -> None:
    """Returns once a call gives something true; fails if it never does."""
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end, f"waited {patience_s:g} s for {what}"
        time.sleep(0.05)
