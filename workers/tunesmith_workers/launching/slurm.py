"""By Slurm: an array of jobs, a worker each.

Plain `sbatch`, since a worker is a command, and arrays, a warning before the time is up and requeueing are
Slurm's own; `submitit`, which brings pickled functions to jobs, would add a dependency and do none of it.

| Slurm | the worker |
|---|---|
| preempts, requeues or cancels: SIGTERM to all processes, SIGKILL 30 s later | hands back within 25 s |
| warns WARN_SECONDS before its time is up: SIGUSR1 to the script | hands back, and the job queues again |
| loses the node | the leases run out after 30 s, and Slurm queues the job again |

A job that has queued again is the same worker with the same state, which sends first what was left unsaid.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping

from tunesmith_workers.launching.crew import Crew, LaunchError

WARN_SECONDS = 90
"""Slurm sends it up to a minute early; handing back takes 25 s."""

OURS = ("array", "requeue", "signal", "open-mode", "ntasks", "wrap")
"""Options of sbatch that follow from the crew, or that this script lives on."""

_KEY = re.compile(r"[a-z][a-z-]*")


def script(crew: Crew, options: Mapping[str, str] | None = None) -> str:
    """The batch script.

    Args:
        options: more of sbatch by their long names, such as `{"partition": "gpu", "time": "4:00:00"}`; an
            empty value for one that takes none.

    Raises: LaunchError for an option that is none, or not to be given.
    """
    asked: dict[str, str] = {
        "job-name": crew.name,
        "array": f"1-{crew.count}",
        "ntasks": "1",
        "cpus-per-task": str(crew.cpus),
        **({"gres": f"gpu:{crew.gpus}"} if crew.gpus else {}),
        "output": f"{crew.name}-%A_%a.log",
        "open-mode": "append",
        "requeue": "",
        "signal": f"B:USR1@{WARN_SECONDS}",
        **_checked(options or {}),
    }
    head = "\n".join(
        f"#SBATCH --{key}={_quoted(value)}" if value else f"#SBATCH --{key}" for key, value in asked.items()
    )
    return _SCRIPT.format(head=head, worker=_worker(crew))


def launch(crew: Crew, options: Mapping[str, str] | None = None) -> str:
    """Submit it from the current directory, which is the workers' too. Returns: the job's id.

    Raises: LaunchError.
    """
    if not crew.token_file.is_file():
        raise LaunchError(
            f"{crew.token_file} is no file; the jobs read the token there, so keep it where nodes see it"
        )
    made = script(crew, options)
    try:
        done = subprocess.run(
            ["sbatch", "--parsable"],  # noqa: S607  (wherever the cluster keeps it)
            input=made, text=True, capture_output=True, check=False,
        )  # fmt: skip
    except FileNotFoundError as e:
        raise LaunchError("there is no sbatch here; launch from a machine that submits Slurm's jobs") from e
    if done.returncode:
        raise LaunchError(f"sbatch refuses the job: {done.stderr.strip()}")
    return done.stdout.strip().partition(";")[0]


def _checked(options: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in options.items():
        if not _KEY.fullmatch(key) or "\n" in value:
            raise LaunchError(f"{key}={value} is no option of sbatch; write one such as partition=gpu")
        if key in OURS:
            raise LaunchError(f"--{key} follows from the launch itself; leave it out")
    return options


def _quoted(value: str) -> str:
    """As sbatch reads a line: else a blank ends the value, and a # all that follows."""
    if not re.search(r"""[\s#"'\\]""", value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _worker(crew: Crew) -> str:
    command = [sys.executable, "-m", "tunesmith_workers", *crew.arguments()]
    name = shlex.quote(crew.name)
    return f'{shlex.join(command)} --name {name}-"${{SLURM_ARRAY_JOB_ID}}-${{SLURM_ARRAY_TASK_ID}}"'


_SCRIPT = """\
#!/bin/bash
{head}

# Slurm signals every process of the job when it takes the job away, so the worker needs no word from here.
trap heard=yes TERM
# The warning before its time is up comes to this script alone.
trap 'heard=yes; again=yes; kill -USR1 $!' USR1

{worker} &
while heard=; wait $!; code=$?; [[ $heard ]]; do :; done  # a signal ends the wait, not the worker
if [[ ${{again:-}} ]]; then scontrol requeue "${{SLURM_JOB_ID}}"; fi
exit "$code"
"""
