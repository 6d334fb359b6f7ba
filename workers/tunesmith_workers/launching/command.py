"""`tunesmith workers launch`. No torch here."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import click

from tunesmith_workers.launching import kubernetes, local, ray, slurm
from tunesmith_workers.launching.crew import Crew, LaunchError, of_this_home


@click.group()
def workers() -> None:
    """Launch workers, here or on a cluster."""


@workers.command()
@click.option(
    "--on", "engine", required=True, type=click.Choice(["local", "slurm", "kubernetes", "ray"]),
    help="Where.",
)  # fmt: skip
@click.option(
    "--url", envvar="TUNESMITH_URL", show_envvar=True,
    help="Of the service; of several servers of it with commas between. Default: the one of this home.",
)  # fmt: skip
@click.option(
    "--token-file", envvar="TUNESMITH_TOKEN_FILE", show_envvar=True, type=click.Path(path_type=Path),
    help="A token of the role worker; Slurm's jobs read it there. Default: that of this home.",
)  # fmt: skip
@click.option("--count", type=int, default=1, show_default=True, help="Workers.")
@click.option("--slots", type=int, default=1, show_default=True, help="Trials at a time on each worker.")
@click.option(
    "--gpus-per-slot", type=int, default=0, show_default=True, help="GPUs of one trial; 0: the CPU."
)
@click.option("--cpus-per-slot", type=int, default=1, show_default=True, help="CPU cores of one trial.")
@click.option(
    "--name", default="tunesmith", show_default=True, help="For people; workers' names begin with it."
)
@click.option(
    "--slurm", "sbatch", multiple=True, metavar="KEY=VALUE",
    help="An option of sbatch, such as partition=gpu or time=4:00:00; repeatable.",
)  # fmt: skip
@click.option(
    "--kubernetes", "cluster", multiple=True, metavar="KEY=VALUE",
    help="image (needed), namespace, kind (deployment or job), secret, memory, gpu, most and viewer.",
)  # fmt: skip
@click.option(
    "--ray", "ray_options", multiple=True, metavar="KEY=VALUE",
    help="address, resources.NAME of a worker, viewer (a token file: follow the queue) and least.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would be run, and run nothing.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- WORKER_OPTIONS]")
def launch(
    *, engine: str, url: str | None, token_file: Path | None, count: int, slots: int, gpus_per_slot: int,
    cpus_per_slot: int, name: str, sbatch: tuple[str, ...], cluster: tuple[str, ...],
    ray_options: tuple[str, ...], dry_run: bool, options: tuple[str, ...],
) -> None:  # fmt: skip
    """Launch COUNT equal workers: as one process here, as Slurm's job array, as Ray's actors, or as
    Kubernetes' manifests, which are printed. What stands behind -- goes to `tunesmith worker` as it is.

    \b
        tunesmith workers launch --on slurm --count 8 --gpus-per-slot 1 \\
            --token-file worker.token --slurm partition=gpu -- --data spam=spam.csv
        tunesmith workers launch --on kubernetes --count 8 --gpus-per-slot 1 \\
            --url http://tunesmith:8787 --token-file worker.token \\
            --kubernetes image=registry.example.org/tunesmith-worker:0.2.0 | kubectl apply -f -
    """
    try:
        _check_engine(engine, {"slurm": sbatch, "kubernetes": cluster, "ray": ray_options})
        there, its_token = of_this_home()
        url, token_file = url or there, token_file or its_token
        crew = Crew(url, token_file, count, slots, gpus_per_slot, cpus_per_slot, options, name)
        match engine:
            case "local":
                _local(crew, dry_run=dry_run)
            case "slurm":
                _slurm(crew, _pairs("--slurm", sbatch), dry_run=dry_run)
            case "ray":
                _ray(crew, ray.cluster(_pairs("--ray", ray_options)), dry_run=dry_run)
            case _:
                if urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost"):
                    click.echo(f"Note: no pod reaches {url}; name the service by --url", err=True)
                found = kubernetes.manifests(crew, kubernetes.cluster(_pairs("--kubernetes", cluster)))
                click.echo(kubernetes.written(found), nl=False)
    except LaunchError as e:
        raise click.UsageError(str(e)) from e


def _check_engine(engine: str, given: Mapping[str, tuple[str, ...]]) -> None:
    """Raises: LaunchError for options of an engine that is not asked."""
    for other, texts in given.items():
        if texts and other != engine:
            raise LaunchError(f"--{other} {texts[0]} says nothing to {engine}; leave it out")


def _local(crew: Crew, *, dry_run: bool) -> None:
    if dry_run:
        click.echo(shlex.join(local.command(crew, os.environ)))
    else:
        local.launch(crew)


def _slurm(crew: Crew, options: dict[str, str], *, dry_run: bool) -> None:
    if dry_run:
        click.echo(slurm.script(crew, options), nl=False)
        return
    job = slurm.launch(crew, options)
    click.echo(
        f"Slurm's job {job} has {crew.count} workers. `squeue --job {job}` shows them; `scancel {job}` ends "
        "them, and each hands its trials back."
    )


def _ray(crew: Crew, cluster: ray.Cluster, *, dry_run: bool) -> None:
    if dry_run:
        click.echo(ray.shown(crew, cluster))
        return
    over = ray.launch(crew, cluster, say=click.echo)
    if failed := [name for name, code in over.items() if code]:
        raise click.ClickException(f"{len(failed)} of {crew.count} workers cannot go on: {', '.join(failed)}")


def _pairs(flag: str, texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not key:
            raise LaunchError(f"{flag} takes KEY=VALUE, got {text!r}")
        found[key] = value
    return found
