"""Study files that ship with Tunesmith: `tunesmith study create digits-demo` finds them by name."""

from __future__ import annotations

from importlib.resources import files


def names() -> tuple[str, ...]:
    """The examples, such as digits-demo."""
    found = (f.name for f in files(__name__).iterdir() if f.name.endswith(".yaml"))
    return tuple(sorted(name.removesuffix(".yaml") for name in found))


def text(name: str) -> str:
    """The text of an example's file. Raises KeyError for a name that is none."""
    if name not in names():
        raise KeyError(name)
    return files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
