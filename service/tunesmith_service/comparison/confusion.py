"""The confusion matrix of one trial less that of the first.

    {"classes": ["0"], "counts": [[36]], "samples": 36, "less": [[30]], "of": "#48", "minus": "#55",
     "pair": "1:48", "pairs": [["1:48", "#48 − #55"]], "path": "1/trials/48/views/"}

`path` is where the samples of its cells are, below the studies' own address.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from tunesmith_service import trial_store
from tunesmith_service.charts import inspected
from tunesmith_service.comparison.asked import Asked
from tunesmith_service.comparison.named import OfTrial
from tunesmith_service.documents import Unread, View
from tunesmith_service.errors import Unprocessable
from tunesmith_service.stores import Store


def with_matrix(conn: Connection, found: Sequence[OfTrial]) -> list[OfTrial]:
    """Those that left a confusion matrix."""
    return [
        c for c in found if any(a.name == "confusion.json" for a in trial_store.artifacts(conn, c.trial.id))
    ]


def view(asked: Asked) -> Unread:
    """Raises: Unprocessable unless two trials left matrices; when it is read, unless of the same classes."""
    found = with_matrix(asked.conn, asked.trials())
    if len(found) < 2:
        raise Unprocessable(f"a difference needs two trials that left a confusion matrix, got {len(found)}")
    first, others = found[0], found[1:]
    other = next((c for c in others if c.name == asked.query.pair), others[0])
    left = [
        inspected.find(trial_store.artifacts(asked.conn, c.trial.id), "confusion") for c in (first, other)
    ]
    labels = _labels(found)

    def read(blobs: Store) -> View:
        theirs, mine = (inspected.read(blobs, artifact, "confusion") for artifact in left)
        if theirs["classes"] != mine["classes"]:
            raise Unprocessable(
                f"{labels[first.name]} and {labels[other.name]} were judged on different classes, so nothing "
                "can be taken away"
            )
        return mine | {
            "less": theirs["counts"],
            "of": labels[other.name],
            "minus": labels[first.name],
            "pair": other.name,
            "pairs": [[c.name, f"{labels[c.name]} − {labels[first.name]}"] for c in others],
            "path": f"{other.study.id}/trials/{other.trial.number}/views/",
        }

    return read


def _labels(found: Sequence[OfTrial]) -> dict[str, str]:
    several = len({c.study.id for c in found}) > 1
    return {c.name: f"{c.study.name} #{c.trial.number}" if several else f"#{c.trial.number}" for c in found}
