"""Reads along on the switch of a network: every TCP payload that any of its hosts sends; knows no protocol above TCP."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ALL_PROTOCOLS, OUTGOING, IPV4, TCP = 0x0003, 4, 0x0800, 6
RECEIVE_BUFFER_BYTES = 64 * 2**20
Flow = tuple[str, int, str, int]
"""Sender's address and port, receiver's address and port."""


class Tap:
    """What went over the wire."""

    def __init__(self) -> None:
        self.flows: dict[Flow, bytearray] = defaultdict(bytearray)
        self.dropped = 0
        """Frames that came too fast to be read."""

    def port(self, number: int) -> dict[Flow, bytes]:
        """Payloads of every connection with this port at either end."""
        return {flow: bytes(data) for flow, data in self.flows.items() if number in (flow[1], flow[3]) and data}

    def between(self, addresses: set[str]) -> dict[Flow, bytes]:
        """Payloads between these hosts."""
        return {flow: bytes(data) for flow, data in self.flows.items() if {flow[0], flow[2]} <= addresses and data}

    def take(self, frame: bytes) -> None:
        """Sorts a frame's payload to its connection, in the order in which it came."""
        (kind,) = struct.unpack_from("!H", frame, 12)
        if kind != IPV4 or frame[23] != TCP:
            return
        header = 14 + 4 * (frame[14] & 0xF)
        (length,) = struct.unpack_from("!H", frame, 16)
        source, target = (socket.inet_ntoa(frame[at : at + 4]) for at in (26, 30))
        ports = struct.unpack_from("!HH", frame, header)
        payload = frame[header + 4 * (frame[header + 12] >> 4) : 14 + length]
        self.flows[source, ports[0], target, ports[1]] += payload


@contextmanager
def tapped(namespace: str) -> Iterator[Tap]:
    """Reads along in a switch's namespace until the block ends."""
    # A socket stays in the namespace of the thread that opened it.
    with ThreadPoolExecutor(max_workers=1) as there:
        raw = there.submit(_socket_in, namespace).result()
    tap, ended = Tap(), threading.Event()
    reader = threading.Thread(target=_read, args=(raw, tap, ended))
    reader.start()
    try:
        yield tap
    finally:
        ended.set()
        reader.join()
        raw.close()


def _socket_in(namespace: str) -> socket.socket:
    with Path(f"/run/netns/{namespace}").open() as file:
        os.setns(file.fileno(), os.CLONE_NEWNET)
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
    raw.setsockopt(socket.SOL_SOCKET, 33, RECEIVE_BUFFER_BYTES)  # SO_RCVBUFFORCE
    raw.settimeout(0.1)
    return raw


def _read(raw: socket.socket, tap: Tap, ended: threading.Event) -> None:
    """Until it is told to end and nothing more comes."""
    while True:
        try:
            frame, about = raw.recvfrom(2**17)
        except TimeoutError:
            if ended.is_set():
                break
            continue
        # A frame is seen where it enters the switch, and again at each port where it leaves.
        if about[2] != OUTGOING and about[0] != "switch":
            tap.take(frame)
    _, tap.dropped = struct.unpack("II", raw.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
