"""A real Slurm of one node for tests: Debian's packages, on free ports of this machine; knows no job.

    python tests/servers/slurm.py install          # as root, from Debian's packages
    python tests/servers/slurm.py start FOLDER     # prints the environment that Slurm's programs need
    python tests/servers/slurm.py kill FOLDER      # kill -9 of every process

The node has eight cores and two GPUs as far as Slurm knows, whatever the machine has: jobs are queued as on a large one.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import daemons

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
NAMES = ("slurmd", "slurmctld", "munged")
"""Daemons, in the order in which they are ended."""
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
SETTINGS = """\
ClusterName=engram
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.own.pid
SlurmdPidFile={folder}/slurmd.own.pid
SlurmctldLogFile={folder}/slurmctld.own.log
SlurmdLogFile={folder}/slurmd.own.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=500000
KillWait=5
OverTimeLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=65536 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
DEVICES = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"
"""What stands for the GPUs: Slurm numbers and hands them out, and nobody opens them."""


@dataclass(frozen=True)
class SlurmServer:
    """Where a running Slurm is."""

    folder: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables that Slurm's programs read."""
        return {"SLURM_CONF": f"{self.folder}/slurm.conf"}

    def tell(self, program: str, *arguments: str) -> str:
        """What one of Slurm's programs prints."""
        return daemons.run(["env", f"SLURM_CONF={self.folder}/slurm.conf", program, *arguments], timeout_s=60)


def installed() -> bool:
    """Whether a server can be started here."""
    return all(shutil.which(program, path=PATH) for program in PROGRAMS)


def install() -> None:
    """Installs Debian's packages; needs root or sudo."""
    if not installed():
        daemons.install_packages(PACKAGES, "Slurm for tests")


def start(folder: Path) -> SlurmServer:
    """Starts a new Slurm with all it keeps in a folder that must not exist yet."""
    folder = folder.absolute()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    controller, daemon = daemons.free_ports(2)
    host = socket.gethostname().partition(".")[0]
    settings = SETTINGS.format(host=host, controller=controller, daemon=daemon, folder=folder, user=getpass.getuser())
    (folder / "slurm.conf").write_text(settings)
    (folder / "gres.conf").write_text(DEVICES)
    server = SlurmServer(str(folder))
    (folder / "server.json").write_text(json.dumps(asdict(server)))
    _daemons(folder)
    daemons.wait(lambda: _idle(server), "Slurm's node")
    return server


def apart(action: str, folder: Path) -> None:
    """Does `start`; the server is no process's child, whoever starts it."""
    daemons.run([sys.executable, __file__, action, str(folder)])


def running(folder: Path) -> SlurmServer:
    """The server that was started in a folder."""
    return SlurmServer(**json.loads((folder / "server.json").read_text()))


def kill(folder: Path) -> None:
    """Ends every daemon at once; steps of jobs have ended, or end with the next look at their daemon."""
    daemons.end(folder, NAMES)


def _daemons(folder: Path) -> None:
    # A folder that others may write above is no danger to a key that opens nothing else.
    munge = ["--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"]
    munge += [
        f"--pid-file={folder}/munge.own.pid",
        f"--seed-file={folder}/munge.seed",
        f"--log-file={folder}/munge.log",
    ]
    daemons.spawn(folder, "munged", [_program("munged"), *munge])
    daemons.wait((folder / "munge.socket").exists, "munged")
    for name in ("slurmctld", "slurmd"):
        daemons.spawn(folder, name, [_program(name), "-D", "-f", f"{folder}/slurm.conf"])


def _program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if found is None:
        raise daemons.ServerError(f"{name} is not installed: `python {__file__} install` does it.")
    return found


def _idle(server: SlurmServer) -> bool:
    asked = subprocess.run(
        ["sinfo", "--noheader", "--format=%t"], env=os.environ | server.environment, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    return asked.stdout.strip() == "idle"


def main(arguments: list[str]) -> None:
    """The command line of this file."""
    match arguments:
        case ["install"]:
            install()
        case ["start", folder]:
            for name, value in start(Path(folder)).environment.items():
                sys.stdout.write(f"export {name}={value}\n")
        case ["kill", folder]:
            kill(Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
