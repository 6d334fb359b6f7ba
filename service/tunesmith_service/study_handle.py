"""A study in Python, for notebooks and scripts: what `Client.study` gives, and its twin of `AsyncClient`.

>>> from tunesmith_service.client import Client
>>> client = Client("http://127.0.0.1:8787", token)                              # doctest: +SKIP
>>> study = client.create({"name": "lr", "task": "digits", "space": …, "recipe": "quick"})  # doctest: +SKIP
>>> study.wait()                                                                 # doctest: +SKIP
'complete'
>>> study.trials_dataframe().nsmallest(5, "value")                               # doctest: +SKIP

Tables need pandas, which Tunesmith itself does not.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith_service import study_flows as flows

if TYPE_CHECKING:
    import pandas as pd

    from tunesmith_service.async_client import AsyncClient
    from tunesmith_service.client import Client


class Study:
    """One study of a service. Every property and method asks the service anew.

    Raises (every call): `Refused` and its kinds, such as NotFound; `Unavailable`.
    """

    def __init__(self, client: Client, name: str) -> None:
        self._client, self.name = client, name

    def __repr__(self) -> str:
        return f"<Study {self.name!r}>"

    def _repr_html_(self) -> str:
        """For notebooks: its state, stages and best trial."""
        found, best = self.show(), self.best
        rows = "".join(
            f"<tr><td>{escape(s['name'])}</td><td>{escape(s['kind'])}</td><td>{escape(s['state'])}</td></tr>"
            for s in found["stages"]
        )
        told = (
            ""
            if best is None
            else f"<p>Best: trial {best['number']}, {best['value']:.6g}, {_listed(best['params'])}</p>"
        )
        head = f"<p><b>{escape(found['name'])}</b>: {escape(found['state'])}</p>"
        return f"{head}<table><tr><th>stage</th><th>kind</th><th>state</th></tr>{rows}</table>{told}"

    # --- looking ---

    def show(self) -> dict[str, Any]:
        """As `GET studies/{study}` has it: spec, stages, counts, best."""
        return self._client.run(flows.show(self.name))

    @property
    def state(self) -> str:
        return self._client.run(flows.state(self.name))

    @property
    def stages(self) -> list[dict[str, Any]]:
        """In order, with what each chose and why."""
        return self._client.run(flows.stages(self.name))

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial; None before there is one."""
        return self._client.run(flows.best(self.name))

    def download_snapshot(
        self, to: Path, *, number: int | None = None, step: int | None = None
    ) -> dict[str, int]:
        """Bring a trial's snapshot, weights and all, to the file `to`: `tunesmith_workers.snapshots.load`
        reads it.

        Args:
            number: of the trial; None: the best.
            step: None: its last.
        Returns: `number` and `step`.
        Raises: NotFound if there is none.
        """
        meant = self._client.run(flows.snapshot(self.name, number, step))
        self._client.download(*_snapshot(self.name, meant), to=to)
        return meant

    def trials(self, filter: str = "", *, sort: str = "number") -> Iterator[dict[str, Any]]:
        """Those that a filter picks, such as `"state:complete val/loss<0.1"`; see docs/filters.md."""
        return self._client.pages(
            "studies", self.name, "trials", filter=filter or None, sort=sort, limit=flows.AT_ONCE
        )

    def curve(self, number: int) -> list[dict[str, Any]]:
        """A trial's points: `{"step": …, "metrics": {…}}`."""
        return self._client.run(flows.curve(self.name, number))

    def events(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """What happened, in order, from the event behind number `after` on."""
        return self._client.pages("studies", self.name, "events", after=after, limit=flows.AT_ONCE)

    def trials_dataframe(self, filter: str = "") -> pd.DataFrame:
        """A row a trial: number, state, stage, value, …, `params_lr`, …, `metrics_val/loss`, …; columns that
        Optuna's `trials_dataframe` has too mean the same."""
        return self._client.run(flows.trials_table(self.name, filter))

    def metrics_dataframe(self, filter: str = "") -> pd.DataFrame:
        """A row a point: number, step, and a column for each metric. Asks once for each trial."""
        return self._client.run(flows.metrics_table(self.name, filter))

    # --- steering ---

    def wait(
        self,
        timeout: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> str:
        """Until it has ended. Returns: `complete` or `stopped`.

        Raises: TimeoutError after `timeout` s; StudyBlockedError when a check keeps it from going on.
        """
        return self._client.run(flows.wait(self.name, timeout, clock), sleep=sleep)

    def enqueue(self, params: Sequence[Mapping[str, Any]], *, stage: str | None = None) -> list[int]:
        """Queue trials by hand, all or none. Returns: their numbers."""
        return self._client.run(flows.enqueue(self.name, params, stage))

    def pause(self) -> None:
        self._client.run(flows.move(self.name, "pause"))

    def resume(self) -> None:
        self._client.run(flows.move(self.name, "resume"))

    def stop(self) -> None:
        """For good: what waits and runs is cancelled."""
        self._client.run(flows.move(self.name, "stop"))


class AsyncStudy:
    """The same for `AsyncClient`: each method means what `Study`'s of its name does, and what is a property
    there is awaited here."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self._client, self.name = client, name

    def __repr__(self) -> str:
        return f"<AsyncStudy {self.name!r}>"

    async def show(self) -> dict[str, Any]:
        return await self._client.run(flows.show(self.name))

    async def state(self) -> str:
        return await self._client.run(flows.state(self.name))

    async def stages(self) -> list[dict[str, Any]]:
        return await self._client.run(flows.stages(self.name))

    async def best(self) -> dict[str, Any] | None:
        return await self._client.run(flows.best(self.name))

    async def download_snapshot(
        self, to: Path, *, number: int | None = None, step: int | None = None
    ) -> dict[str, int]:
        meant = await self._client.run(flows.snapshot(self.name, number, step))
        await self._client.download(*_snapshot(self.name, meant), to=to)
        return meant

    def trials(self, filter: str = "", *, sort: str = "number") -> AsyncIterator[dict[str, Any]]:
        return self._client.pages(
            "studies", self.name, "trials", filter=filter or None, sort=sort, limit=flows.AT_ONCE
        )

    async def curve(self, number: int) -> list[dict[str, Any]]:
        return await self._client.run(flows.curve(self.name, number))

    def events(self, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        return self._client.pages("studies", self.name, "events", after=after, limit=flows.AT_ONCE)

    async def trials_dataframe(self, filter: str = "") -> pd.DataFrame:
        return await self._client.run(flows.trials_table(self.name, filter))

    async def metrics_dataframe(self, filter: str = "") -> pd.DataFrame:
        return await self._client.run(flows.metrics_table(self.name, filter))

    async def wait(self) -> str:
        """Within `asyncio.timeout` it waits no longer than that."""
        return await self._client.run(flows.wait(self.name, None, time.monotonic))

    async def enqueue(self, params: Sequence[Mapping[str, Any]], *, stage: str | None = None) -> list[int]:
        return await self._client.run(flows.enqueue(self.name, params, stage))

    async def pause(self) -> None:
        await self._client.run(flows.move(self.name, "pause"))

    async def resume(self) -> None:
        await self._client.run(flows.move(self.name, "resume"))

    async def stop(self) -> None:
        await self._client.run(flows.move(self.name, "stop"))


def _listed(params: Mapping[str, Any]) -> str:
    return escape(", ".join(f"{name}={value}" for name, value in params.items()))


def _snapshot(study: str, meant: Mapping[str, int]) -> tuple[str | int, ...]:
    return ("studies", study, "trials", meant["number"], "snapshots", meant["step"])
