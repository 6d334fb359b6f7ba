"""Studies put away, deleted and written about; trials tagged."""

from __future__ import annotations

from factories import Bench
from sqlalchemy import func, select
from tunesmith_service import commands as c
from tunesmith_service import keeping, store, tables
from tunesmith_service.errors import Changed, Conflict, NotFound, Unprocessable
from tunesmith_service.wishes import DeleteStudy, PutAway, TagTrials, WriteNote

OF_A_STUDY = (
    "reports",
    "events",
    "stages",
    "studies",
    "trials",
    "attempts",
    "snapshots",
    "logs",
    "artifacts",
)


def counted(bench: Bench) -> dict[str, int]:
    return {
        name: bench.rows(select(func.count()).select_from(tables.metadata.tables[name]))[0][0]
        for name in OF_A_STUDY
    }


def ended(bench: Bench, name: str = "study", trials: int = 3) -> int:
    study = bench.study(name)
    for _ in range(trials):
        bench.trial(study)
        grant = bench.claim()
        bench.report(grant, 1, 0.5)
        bench.snapshot(grant, 1)
        bench.finish(grant)
    bench.do(c.MoveStudy(study, "stopped", "ann", "enough"))
    return study


def test_a_study_put_away_leaves_the_list_and_comes_back(bench: Bench) -> None:
    study = bench.study()
    assert "pause or stop it before" in bench.do(PutAway(study, True, "ann")).detail
    bench.do(c.MoveStudy(study, "paused", "ann", ""))
    assert bench.do(PutAway(study, True, "ann")) is None
    with bench.engine.connect() as conn:
        assert store.studies(conn, None) == []
        assert [s.id for s in store.studies(conn, None, archived=True)] == [study]
    assert bench.do(PutAway(study, False, "ann")) is None
    assert bench.study_row(study).archived is False
    assert isinstance(bench.do(PutAway(77, True, "ann")), NotFound)


def test_a_deleted_study_leaves_nothing_behind_and_others_whole(bench: Bench, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "PIECE", 2)
    ended(bench, "kept")
    before = counted(bench)
    study = ended(bench, "gone", trials=5)
    ask = DeleteStudy(study, "gone", "ann")
    assert bench.do(ask) is False
    row = bench.study_row(study)
    assert (row.trial_n, row.finished, row.archived) == (3, 3, True)
    assert [bench.do(ask) for _ in range(3)] == [False, False, True]
    assert bench.do(ask) is True
    assert counted(bench) == before
    bench.seconds(2 * 86_400)
    bench.do(c.ForgetBlobs(bench.clock.now_us()))
    named = bench.rows(select(tables.snapshots.c.sha256).where(tables.snapshots.c.forgotten_us.is_(None)))
    kept = bench.rows(select(tables.blobs.c.sha256))
    assert {r.sha256 for r in kept} == {r.sha256 for r in named}


def test_a_study_is_deleted_by_its_exact_name_and_only_once_it_has_ended(bench: Bench) -> None:
    study = bench.study()
    assert isinstance(bench.do(DeleteStudy(study, "stud", "ann")), Unprocessable)
    told = bench.do(DeleteStudy(study, "study", "ann"))
    assert isinstance(told, Conflict)
    assert "stop it before it is deleted" in told.detail
    assert bench.study_row(study) is not None


def test_the_second_of_two_who_edit_a_note_is_told_what_it_says_now(bench: Bench) -> None:
    study = bench.study()
    assert bench.do(WriteNote(study, "mine", 0, "ann")) == 1
    told = bench.do(WriteNote(study, "his", 0, "bob"))
    assert isinstance(told, Changed)
    assert told.outcome == {"text": "mine", "version": 1}
    assert bench.study_row(study).note == "mine"
    assert bench.do(WriteNote(study, "mine\nhis", 1, "bob")) == 2
    assert bench.study_row(study).note == "mine\nhis"


def test_tags_are_added_and_taken_from_several_trials_or_none(bench: Bench) -> None:
    study = bench.study()
    one, other = bench.trial(study), bench.trial(study)
    assert bench.do(TagTrials(study, (one, other), ("look", "abl"), ())) is None
    assert bench.do(TagTrials(study, (other,), ("odd",), ("abl", "absent"))) is None
    assert bench.row(study, one).tags == ["abl", "look"]
    assert bench.row(study, other).tags == ["look", "odd"]
    assert isinstance(bench.do(TagTrials(study, (one, 77), ("more",), ())), NotFound)
    assert bench.do(TagTrials(study, (one,), (), ("abl", "look"))) is None
    assert bench.row(study, one).tags is None
    many = tuple(f"t{i}" for i in range(21))
    assert isinstance(bench.do(TagTrials(study, (one,), many, ())), Unprocessable)
