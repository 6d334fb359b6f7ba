"""The seeded study with a finding that proposes a stage."""

from __future__ import annotations

from sqlalchemy import select, update
from tunesmith_service import tables
from tunesmith_studies.findings import Finding
from ui.conftest import Dashboard
from ui.seeding import Seeder

PROPOSED = {"kind": "coarse_grid", "name": "lr_beyond", "source": "coarse", "epochs": 5, "around_best": True,
            "axes": {"lr": 3}, "ranges": {"lr": [0.5, 2.5]}}  # fmt: skip
EDGE = Finding(
    "best_at_edge",
    "warn",
    "The best lr, 0.5, is among the largest of the values tried, so better ones may lie beyond.",
    "an end of a grid",
    "Widen lr on that side, unless trials there diverge.",
    {"parameter": "lr", "best": 0.5, "side": "high"},
    (9,),
    PROPOSED,
)


class Edged(Dashboard):
    def some_studies(self, seeder: Seeder, token: int) -> int:
        study = super().some_studies(seeder, token)
        t = tables.stages
        with seeder.engine.begin() as conn:
            row = conn.execute(select(t).where(t.c.study_id == study, t.c.name == "coarse")).one()
            told = {**row.result, "findings": [EDGE.to_json()]}
            conn.execute(update(t).where(t.c.id == row.id).values(result=told))
        return study
