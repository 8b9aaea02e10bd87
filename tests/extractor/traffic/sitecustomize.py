"""Keeps a copy of all that a Python process gives to others through pipes, or also sockets; tests put its folder on PYTHONPATH.

Every process that a process starts does the same. The copies lie in the folder $ENGRAM_TRAFFIC, a file for each process and way.
"""

import io
import multiprocessing.connection
import multiprocessing.reduction
import os
import socket
from pathlib import Path


def keep(way, data):
    """Adds to the copy of what this process sent in one way."""
    with (Path(os.environ["ENGRAM_TRAFFIC"]) / f"{way}-{os.getpid()}").open("ab") as file:
        file.write(bytes(data))


def keeping(way, method):
    """A method of a connection that also keeps what it is given."""

    def call(connection, data, *arguments):
        keep(way, data)
        return method(connection, data, *arguments)

    return call


def keeping_dump(thing, file, protocol=None, *, dump=multiprocessing.reduction.dump):
    """By this a process that is started by spawn gets what it begins with."""
    given = io.BytesIO()
    dump(thing, given, protocol)
    keep("spawn", given.getvalue())
    file.write(given.getvalue())


multiprocessing.reduction.dump = keeping_dump
multiprocessing.connection.Connection._send = keeping("pipe", multiprocessing.connection.Connection._send)
if os.environ.get("ENGRAM_TRAFFIC_SOCKETS"):
    socket.socket.send = keeping("socket", socket.socket.send)
    socket.socket.sendall = keeping("socket", socket.socket.sendall)
