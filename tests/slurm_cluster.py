"""A Slurm of one node on this machine: a real slurmctld, slurmd and munged, of Debian's packages."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
from pathlib import Path

from processes import Process, free_port, until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
CPUS = 8  # more than this machine may have: Slurm is told so
CONF = """\
ClusterName=tunesmith
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={home}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs that this machine has not. /usr/sbin is not on everybody's path."""
    return [name for name in PROGRAMS if _program(name) is None]


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")


class Cluster:
    """Up once it is made. `environ` is what Slurm's commands need."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for part in ("munge", "state", "spool"):
            (home / part).mkdir()
        (home / "munge").chmod(0o711)
        key = home / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        conf = home / "slurm.conf"
        conf.write_text(CONF.format(
            host=socket.gethostname(), controller=free_port(), node=free_port(), user=getpass.getuser(),
            home=home, cpus=CPUS,
        ))  # fmt: skip
        self.environ = {"SLURM_CONF": str(conf)}
        munge = home / "munge"
        named = {
            "key-file": key,
            "socket": munge / "socket",
            "pid-file": munge / "pid",
            "seed-file": munge / "seed",
        }
        self._processes = [
            self._start("munged", "--foreground", "--force", *(f"--{k}={v}" for k, v in named.items()))
        ]
        until((munge / "socket").exists, saw=lambda: self.said)
        self._processes += [self._start("slurmctld", "-D"), self._start("slurmd", "-D")]
        until(lambda: "idle" in self.run("sinfo", "--noheader"), saw=lambda: self.said)

    def _start(self, name: str, *arguments: str) -> Process:
        program = _program(name)
        assert program is not None
        return Process([program, *arguments], environ=self.environ)

    @property
    def said(self) -> str:
        return "\n".join(process.said for process in self._processes)

    def run(self, *command: str) -> str:
        """Output of one of Slurm's commands; empty while the controller does not answer."""
        done = subprocess.run(
            command, env=os.environ | self.environ, text=True, capture_output=True, check=False
        )
        return done.stdout.strip()

    def states(self, job: str) -> dict[int, str]:
        """State of each task of a job array that is not over, such as {1: "RUNNING"}."""
        told = self.run("squeue", "--job", job, "--array", "--noheader", "--format", "%K %T")
        return {int(index): state for index, state in map(str.split, told.splitlines())}

    def pids(self, job: str, task: int) -> list[int]:
        """Processes of a job array's task, the script first."""
        number = self.run("squeue", "--job", f"{job}_{task}", "--noheader", "--format", "%A")
        listed = self.run("scontrol", "listpids", number).splitlines()[1:]
        return [int(line.split()[0]) for line in listed]

    def close(self) -> None:
        self.run("scancel", "--user", getpass.getuser())
        until(lambda: not self.run("squeue", "--noheader"), saw=lambda: self.run("squeue"))
        for process in reversed(self._processes):
            process.kill()
