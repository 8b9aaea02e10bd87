"""A real browser for tests of the service's pages: Chromium from Debian's packages; knows no page.

python tests/servers/chromium.py install         # as root, from Debian's packages
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

PROGRAM = "/usr/bin/chromium"
PACKAGES = ("chromium", "fonts-dejavu-core")
"""The browser, and letters for it to draw with."""
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""A browser of tests runs as root in a container, and asks nobody for anything but the pages."""


class BrowserError(RuntimeError):
    """The browser could not be installed."""


def installed() -> bool:
    """Whether the browser is there."""
    return shutil.which(PROGRAM) is not None


def install() -> None:
    """Installs Debian's packages; needs root or sudo."""
    if installed():
        return
    if shutil.which("apt-get") is None:
        raise BrowserError(f"the browser for tests comes from Debian's packages {PACKAGES}; there is no apt-get here.")
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            [*root, "apt-get", *command], capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            raise BrowserError(f"apt-get {command[0]} failed: {done.stderr[-800:]}")


def main(arguments: list[str]) -> int:
    """The command line: `install`."""
    if arguments != ["install"]:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        install()
    except BrowserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
