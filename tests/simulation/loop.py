"""An event loop on a virtual clock, and processes in it that are killed, stopped and continued.

Nothing waits: when no callback is ready, the clock jumps to the next timer. There are no threads: what is
handed to one runs as a callback. So a run is a function of the program and its seed.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
import warnings
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any

FILES_LEFT = "ignore:unclosed file:ResourceWarning"
"""For pytest: a process that is killed between opening a file and having it closes nothing, and what it
leaves may be found while the run goes on."""


class ProcessKilled(BaseException):
    """A process ends in the middle of a callback: raised there after `Process.kill`."""


class Process:
    """What starts in its `context` belongs to it, as do the tasks and timers that come of that.

    A killed process runs nothing more, no `finally` either, like one that got SIGKILL. A stopped one runs
    nothing until it is continued, while time goes on, like one that got SIGSTOP.
    """

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.loop, self.name = loop, name
        self.is_alive = True
        self.is_stopped = False
        self.fuel: int | None = None  # callbacks until it is killed by itself
        self.on_kill: list[Callable[[], None]] = []
        self._held: list[_Callback] = []
        loop.processes.append(self)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        context = copy_context()
        context.run(_PROCESS.set, self)
        return self.loop.create_task(work, context=context)

    def call(self, work: Callable[..., Any], *args: Any) -> None:
        """Run a callback soon as this process."""
        context = copy_context()
        context.run(_PROCESS.set, self)
        self.loop.call_soon(work, *args, context=context)

    def kill(self) -> None:
        if self.is_alive:
            self.is_alive = False
            for told in self.on_kill:
                told()

    def stop(self) -> None:
        self.is_stopped = True

    def go_on(self) -> None:
        self.is_stopped = False
        held, self._held = self._held, []
        for callback in held:
            self.loop.call_soon(callback.run_unless_cancelled, context=callback.context)

    def clear_away(self) -> None:
        """When the run is over: let the process go on even if it was killed, so that its tasks can end."""
        self.is_alive, self.fuel = True, None
        self.go_on()

    def run(self, callback: _Callback) -> None:
        """Run a callback of this process as far as its state lets it."""
        if self.fuel is not None and self.is_alive and not self.is_stopped:
            self.fuel -= 1
            if self.fuel < 0:
                self.kill()
        if not self.is_alive or self.is_stopped:
            self._held.append(callback)
        else:
            callback.work(*callback.args)


class _Callback:
    """What a handle of the loop calls. It is held while its process is stopped, and its handle may be
    cancelled meanwhile."""

    def __init__(
        self, process: Process, work: Callable[..., Any], args: tuple[Any, ...], context: Context
    ) -> None:
        self.process, self.work, self.args, self.context = process, work, args, context
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        self.process.run(self)

    def run_unless_cancelled(self) -> None:
        if self.handle is None or not self.handle.cancelled():
            self.work(*self.args)


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def current_process() -> Process | None:
    return _PROCESS.get()


class _NoSockets(selectors.SelectSelector):
    """Waits for nothing: the time that it is asked to wait has passed."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else: no callback is ready and no timer is set")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _NoSockets()
        super().__init__(self._virtual)
        self.processes: list[Process] = []
        self.tasks: list[asyncio.Task[Any]] = []  # held, so that nothing is collected in the middle of a run
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._virtual.now

    def _make_task(self, loop: Any, work: Any, context: Context | None = None) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, context=context)
        self.tasks.append(task)
        return task

    # --- what runs belongs to a process ---

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        context = copy_context() if context is None else context  # an empty one is false
        if (process := context.get(_PROCESS)) is None:
            return super().call_soon(callback, *args, context=context)
        guarded = _Callback(process, callback, args, context)
        guarded.handle = super().call_soon(guarded, context=context)
        return guarded.handle

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        context = copy_context() if context is None else context
        if (process := context.get(_PROCESS)) is None:
            return super().call_at(when, callback, *args, context=context)
        guarded = _Callback(process, callback, args, context)
        guarded.handle = handle = super().call_at(when, guarded, context=context)
        return handle

    # --- there are no threads and no signals ---

    call_soon_threadsafe = call_soon

    def run_in_executor(self, executor: Any, work: Any, *args: Any) -> asyncio.Future[Any]:
        answer = self.create_future()

        def run() -> None:
            if answer.cancelled():
                return
            try:
                answer.set_result(work(*args))
            except Exception as error:
                answer.set_exception(error)

        self.call_soon(run)
        return answer

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        pass

    def remove_signal_handler(self, sig: int) -> bool:
        return True


async def run_here(work: Callable[..., Any], *args: Any, **_: Any) -> Any:
    """For `anyio.to_thread.run_sync`: there are no threads."""
    await asyncio.sleep(0)
    return work(*args)


def end_all(loop: VirtualLoop) -> None:
    """Cancel what is left, in dead processes too, and close the loop: nobody looks any more. Files that a
    kernel would have closed with their process are closed here, and are no leak."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed file", ResourceWarning)
        _end_all(loop)
        gc.collect()


def _end_all(loop: VirtualLoop) -> None:
    loop.set_exception_handler(lambda *_: None)
    for process in loop.processes:
        process.clear_away()
    for _ in range(20):
        left = [t for t in loop.tasks if not t.done()]
        if not left:
            break
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left, timeout=60))
    loop.tasks.clear()
    loop.close()
