"""Programs that measurements of the service need, from Debian's packages: wrk and nginx; knows no store.

python tests/servers/load.py install          # as root
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGES = ("wrk", "nginx-light")

NGINX = """daemon off;
master_process on;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""

LUA = """local paths = {{}}
for line in io.lines("{paths}") do paths[#paths + 1] = line end
local headers = {{ {headers} }}
local at = 0
function setup(thread) thread:set("seed", at) at = at + 1 end
function init(args) math.randomseed(seed + 1) end
function request() return wrk.format("GET", paths[math.random(#paths)], headers) end
function done(summary, latency, requests)
  io.write(string.format('{{"requests": %d, "bytes": %d, "us": %d, "connect": %d, "read": %d, "write": %d, "status": %d, ' ..
    '"timeout": %d, "p50_ms": %.3f, "p99_ms": %.3f}}\\n', summary.requests, summary.bytes, summary.duration, summary.errors.connect,
    summary.errors.read, summary.errors.write, summary.errors.status, summary.errors.timeout, latency:percentile(50) / 1000,
    latency:percentile(99) / 1000))
end
"""


def installed() -> bool:
    """Whether both programs are there."""
    return all(shutil.which(name) or Path("/usr/sbin", name).exists() for name in ("wrk", "nginx"))


def install() -> None:
    """Both packages, as root; nginx is not started."""
    if installed():
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    Path("/usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    Path("/usr/sbin/policy-rc.d").chmod(0o755)
    try:
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
        subprocess.run(
            ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *PACKAGES], check=True, env=environment
        )
    finally:
        Path("/usr/sbin/policy-rc.d").unlink()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def nginx(root: Path, folder: Path) -> Iterator[str]:
    """Address at which nginx serves a folder's files."""
    port = free_port()
    folder.mkdir(parents=True)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, root=root, port=port))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    user = ["-g", "user root;"] if os.geteuid() == 0 else []
    server = subprocess.Popen([program, "-c", str(folder / "nginx.conf"), *user])
    try:
        for _ in range(100):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)


def wrk(
    url: str,
    paths: Sequence[str],
    folder: Path,
    *,
    seconds: int,
    connections: int = 64,
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What came of GETs of random paths by so many connections: requests, bytes, errors, milliseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "paths").write_text("\n".join(paths) + "\n")
    shown = ", ".join(f'["{name}"] = "{value}"' for name, value in (headers or {}).items())
    (folder / "load.lua").write_text(LUA.format(paths=folder / "paths", headers=shown))
    command = [
        "wrk",
        "-t2",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "30s",
        "-s",
        str(folder / "load.lua"),
        url,
    ]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit(f"usage: {sys.argv[0]} install")
    install()
