"""Studies to Optuna and back, as Optuna itself and optuna-dashboard see them."""

from __future__ import annotations

import json
import math
import re
import sqlite3
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import optuna
import optuna_dashboard
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from processes import until
from sqlalchemy import create_engine, inspect
from tunesmith_service.cli.base import ExitCode
from tunesmith_service.interchange import optuna_export, optuna_import, optuna_space
from tunesmith_service.interchange.optuna_storage import opened

from .varied import NAME, SPACE, Varied

METRIC = "val/loss"


@pytest.fixture(scope="module", params=["trials.db", "trials.log"])
def storage(request: pytest.FixtureRequest, varied: Varied, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, exported into an SQLite file and into a journal."""
    file: Path = tmp_path_factory.mktemp("storage") / request.param
    done = varied.tunesmith("export", "optuna", NAME, "--storage", str(file))
    assert done.exit_code == 0, done.output
    assert f"Optuna study {NAME} with 8 trials" in done.output
    assert "1 trial that measured" in done.output
    return file


def shown(file: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What optuna-dashboard's own API tells of a study: in its list, and by itself."""
    with opened(str(file), new=False) as there:
        transport = httpx.WSGITransport(app=optuna_dashboard.wsgi(there))
        with httpx.Client(transport=transport, base_url="http://dashboard") as asked:
            listed = asked.get("/api/studies").json()["study_summaries"]
            (summary,) = [s for s in listed if s["study_name"] == name]
            return summary, asked.get(f"/api/studies/{summary['study_id']}").json()


def loaded(file: Path, name: str = NAME) -> list[FrozenTrial]:
    with opened(str(file), new=False) as there:
        return optuna.load_study(study_name=name, storage=there).get_trials()


def curve(trial: dict[str, Any]) -> dict[int, float]:
    return {p["step"]: float(p["metrics"][METRIC]) for p in trial["curve"] if METRIC in p["metrics"]}


def test_optuna_dashboard_shows_the_best_value_all_trials_and_their_intermediate_values(
    varied: Varied, storage: Path
) -> None:
    ours = [t for t in varied.trials(varied.study) if t["kind"] == "train"]
    best = varied.api("GET", f"/studies/{varied.study}/best").json()["items"][0]
    summary, detail = shown(storage, NAME)
    assert summary["directions"] == ["minimize"]
    theirs = detail["trials"]
    assert len(theirs) == len(ours) == 8
    complete = [t for t in theirs if t["state"] == "Complete"]
    assert min(float(t["values"][0]) for t in complete) == best["value"]
    for told, trial in zip(theirs, ours, strict=True):
        values = {v["step"]: float(v["value"]) for v in told["intermediate_values"]}
        assert values == curve(trial), trial["number"]


def test_states_values_times_and_attributes_are_optunas_own(varied: Varied, storage: Path) -> None:
    ours = [t for t in varied.trials(varied.study) if t["kind"] == "train"]
    theirs = loaded(storage)
    assert [t.state.name for t in theirs] == [
        "COMPLETE", "COMPLETE", "PRUNED", "PRUNED", "FAIL", "FAIL", "RUNNING", "WAITING",
    ]  # fmt: skip
    assert [t.value for t in theirs[:2]] == [t["value"] for t in ours[:2]]
    assert (theirs[2].value, theirs[2].user_attrs["tunesmith:stop_reason"]) == (math.inf, "diverged")
    assert [t.user_attrs["tunesmith:number"] for t in theirs] == [0, 1, 2, 3, 4, 6, 7, 8]
    assert theirs[0].user_attrs["val/accuracy"] == ours[0]["last_metrics"]["val/accuracy"]
    assert theirs[0].user_attrs["tunesmith:held"] == {"batch_size": 64}
    started = theirs[0].datetime_start
    assert started is not None
    assert started.astimezone().timestamp() == pytest.approx(_seconds(ours[0]["started_at"]), abs=1e-5)


def _seconds(iso: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(iso).timestamp()


def test_distributions_are_the_space_s_and_what_is_not_active_is_absent(storage: Path) -> None:
    first, second = loaded(storage)[:2]
    assert first.distributions == {
        "lr": FloatDistribution(1e-4, 1.0, log=True),
        "weight_decay": FloatDistribution(0.0, 1e-2),  # a trial had the zero beside the log range
        "layers": IntDistribution(2, 8, step=2),
        "optimizer": CategoricalDistribution(("momentum", "adam")),
        "momentum": FloatDistribution(0.5, 0.99),
    }
    assert "momentum" not in second.params


def test_optuna_goes_on_with_what_was_exported(storage: Path) -> None:
    with opened(str(storage), new=False) as there:
        assert optuna.load_study(study_name=NAME, storage=there).metric_names == [METRIC]
        copied = optuna.create_study(
            storage=None, sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=1)
        )
        copied.add_trials(optuna.load_study(study_name=NAME, storage=there).get_trials())
    trial = copied.ask()
    assert 1e-4 <= trial.suggest_float("lr", 1e-4, 1.0, log=True) <= 1.0


def test_an_export_is_replaced_only_when_asked_and_a_study_of_others_never(
    varied: Varied, tmp_path: Path
) -> None:
    file = str(tmp_path / "some.db")
    words = ["export", "optuna", NAME, "--storage", f"sqlite:///{file}"]
    assert varied.tunesmith(*words).exit_code == 0
    refused = varied.tunesmith(*words)
    assert (refused.exit_code, "replace it with --overwrite" in refused.output) == (ExitCode.CONFLICT, True)
    assert varied.tunesmith(*words, "--overwrite").exit_code == 0
    assert len(loaded(Path(file))) == 8
    with opened(file, new=False) as there:
        optuna.create_study(study_name="theirs", storage=there)
    refused = varied.tunesmith(*words, "--name", "theirs", "--overwrite")
    assert (refused.exit_code, "no export of ours made" in refused.output) == (ExitCode.CONFLICT, True)


def test_one_stage_alone_is_a_study_of_its_own(varied: Varied, tmp_path: Path) -> None:
    words = ["export", "optuna", NAME, "--storage", str(tmp_path / "x.log"), "--stage"]
    assert f"Optuna study {NAME}/refine with 0 trials" in varied.tunesmith(*words, "refine").output
    file = str(tmp_path / "x.db")
    assert varied.tunesmith("export", "optuna", NAME, "--storage", file, "--stage", "coarse").exit_code == 0
    found = optuna_import.read(file)
    assert found.spec["name"] == f"{NAME}-coarse"  # with a slash nobody could ask for it
    with varied.client() as client:
        assert (optuna_import.bring(client, found), optuna_import.bring(client, found)) == (6, 0)
        assert client.study(f"{NAME}-coarse").name == f"{NAME}-coarse"
    wrong = varied.tunesmith(*words, "fine")
    assert (wrong.exit_code, "has no stage 'fine'; it has coarse, refine" in wrong.output) == (2, True)


# --- back -----------------------------------------------------------------------------------------


def imported(varied: Varied, file: Path, *words: str, name: str) -> dict[str, Any]:
    """The study made of it, once its stage has ended."""
    done = varied.tunesmith("import", "optuna", "--storage", str(file), "--name", name, *words)
    assert done.exit_code == 0, done.output
    return complete(varied, name)


def complete(varied: Varied, name: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = varied.api("GET", f"/studies/{name}").json()
        return found if found["state"] == "complete" else None

    return until(look)


def test_what_was_exported_comes_back_as_it_was(varied: Varied, storage: Path, tmp_path: Path) -> None:
    name = f"back-{storage.suffix[1:]}"
    study = imported(varied, storage, name=name)
    original = varied.api("GET", f"/studies/{varied.study}").json()
    for part in ("space", "objective", "fixed", "task"):
        assert study["spec"][part] == original["spec"][part], part
    was = [t for t in varied.trials(varied.study) if t["kind"] == "train" and t["state"] not in LIVE]
    now = varied.trials(name)
    same = ("state", "stop_reason", "value", "params", "started_at", "ended_at")
    for before, after in zip(was, now, strict=True):
        kept = [n for n in same if before["state"] != "cancelled" or n != "started_at"]
        assert {n: after[n] for n in kept} == {n: before[n] for n in kept}
        assert curve(after) == curve(before)
        assert after["imported"]["attributes"] == (before["last_metrics"] or {})
    file = tmp_path / "again.db"
    with varied.client() as client:
        optuna_export.export(client.study(name), str(file))
    for first, second in zip(_finished(storage), loaded(file, name), strict=True):
        for part in ("state", "value", "params", "distributions", "intermediate_values", "datetime_start"):
            assert getattr(first, part) == getattr(second, part), part


LIVE = ("running", "waiting")


def _finished(file: Path) -> list[FrozenTrial]:
    return [t for t in loaded(file) if t.state.is_finished()]


def objective(trial: optuna.Trial) -> float:
    """As people write them: steps from 0, conditions, a trial that fails, one whose loss is infinite."""
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    kind = trial.suggest_categorical("kind", ["mlp", "cnn", 3, True])
    width = trial.suggest_int("width", 8, 512, log=True)
    extra = trial.suggest_int("depth", 1, 9, step=2) if kind == "cnn" else 0
    drop = trial.suggest_float("drop", 0.0, 0.5, step=0.25)
    trial.set_user_attr("notes", {"seed": 2**60, "nan": math.nan, "list": [1, 2]})
    if trial.number == 3:
        raise RuntimeError("out of memory")
    if trial.number == 4:
        return math.inf
    loss = abs(math.log10(lr) + 2) + extra / 10 + drop + 1 / width
    for step in range(3):
        trial.report(loss + 1 / (step + 1), step)
        if trial.number == 5:
            raise optuna.TrialPruned
    return loss


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("theirs") / "optuna.db"
    with opened(str(file), new=True) as there:
        study = optuna.create_study(
            study_name="theirs", storage=there, sampler=optuna.samplers.RandomSampler(seed=1)
        )
        study.optimize(objective, n_trials=25, catch=RuntimeError)
        study.enqueue_trial({"lr": 0.1})
    return file


def test_a_study_of_optuna_s_own_shows_the_same_after_both_ways(
    varied: Varied, theirs: Path, tmp_path: Path
) -> None:
    study = imported(varied, theirs, "--task", "digits", name="from-optuna")
    assert (study["task"], study["spec"]["objective"]["metric"]) == ("digits", "objective")
    stage = study["spec"]["stages"][0]
    assert (stage["kind"], stage["trials"], stage["epochs"]) == ("imported", 25, 3)
    space = study["spec"]["space"]
    assert space["depth"]["when"] == {"kind": ["cnn"]}
    assert (space["depth"]["step"], space["width"]["log"]) == (2, True)
    assert space["kind"]["values"] == ["mlp", "cnn", 3, True]
    trials = varied.trials("from-optuna")
    by_state = {s: sum(t["state"] == s for t in trials) for s in ("complete", "pruned", "failed")}
    assert by_state == {"complete": 22, "pruned": 2, "failed": 1}
    assert trials[4]["stop_reason"] == "diverged"
    assert trials[0]["imported"]["attributes"]["notes"] == {
        "seed": str(2**60), "nan": "NaN", "list": [1, 2],
    }  # fmt: skip
    with varied.login() as browser:
        for page in ("", "/trials/4", "/explore", "/failures"):
            answer = browser.get(f"/ui/studies/{study['id']}{page}")
            assert answer.status_code == 200, page
            assert page != "/trials/4" or "imported, #4 there" in answer.text
    file = tmp_path / "again.db"
    assert varied.tunesmith("export", "optuna", "from-optuna", "--storage", str(file)).exit_code == 0
    (_, before), (_, after) = shown(theirs, "theirs"), shown(file, "from-optuna")
    was = before["trials"][:25]
    assert len(after["trials"]) == 25
    assert [t["intermediate_values"] for t in was] == [t["intermediate_values"] for t in after["trials"]]
    best = [
        min(float(t["values"][0]) for t in told if t["state"] == "Complete")
        for told in (was, after["trials"])
    ]
    assert best[0] == best[1] == varied.api("GET", "/studies/from-optuna/best").json()["items"][0]["value"]
    assert [t.params for t in loaded(theirs, "theirs")[:25]] == [
        t.params for t in loaded(file, "from-optuna")
    ]


def test_a_stage_that_is_added_begins_with_the_best_of_what_came(varied: Varied, theirs: Path) -> None:
    imported(varied, theirs, "--task", "digits", name="goes-on")
    best = varied.api("GET", "/studies/goes-on/best").json()["items"][0]
    stage = {"kind": "sampler", "name": "tpe", "epochs": 3, "trials": 5, "warm_start": 1}
    varied.api("POST", "/studies/goes-on/stages", json=stage)
    first = until(lambda: varied.trials("goes-on", stage="tpe"))[0]
    assert (first["state"], first["params"]) == ("waiting", best["params"])


def test_an_import_that_broke_off_goes_on_and_a_whole_one_brings_nothing(
    varied: Varied, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna_import, "MOST_TRIALS", 10)
    found = optuna_import.read(str(theirs), name="broken-off")
    with varied.client() as client:
        client.post("studies", json=found.spec)
        some = next(optuna_import._batches(found.trials))
        assert client.post("studies", "broken-off", "import", json={"stage": "imported", "trials": some}) == {
            "new": 10
        }
        assert optuna_import.bring(client, found) == 15
        complete(varied, "broken-off")
        assert optuna_import.bring(client, found) == 0
    words = ["import", "optuna", "--storage", str(theirs), "--name", NAME]
    refused = varied.tunesmith(*words)
    assert (refused.exit_code, "exists already" in refused.output) == (ExitCode.CONFLICT, True)


# --- what cannot come -----------------------------------------------------------------------------


def _one(file: Path, distribution: optuna.distributions.BaseDistribution, value: Any) -> str:
    with opened(str(file), new=True) as there:
        study = optuna.create_study(storage=there, study_name="one")
        study.add_trial(
            optuna.trial.create_trial(params={"x": value}, distributions={"x": distribution}, value=1.0)
        )
    return str(file)


def test_what_a_space_here_cannot_hold_is_refused_before_anything_is_made(
    varied: Varied, tmp_path: Path
) -> None:
    none = _one(tmp_path / "none.db", CategoricalDistribution((None, "relu")), None)
    refused = varied.tunesmith("import", "optuna", "--storage", none)
    assert (refused.exit_code, "x has the choice None" in refused.output) == (ExitCode.USAGE, True)
    assert "one" not in [s["name"] for s in varied.api("GET", "/studies").json()["items"]]


def test_steps_of_a_range_are_left_behind_with_a_word(tmp_path: Path) -> None:
    stepped = _one(tmp_path / "stepped.log", FloatDistribution(0, 1, step=0.25), 0.5)
    found = optuna_import.read(stepped)
    assert found.notes == ["x had steps, and is a range without steps here."]
    assert found.spec["space"] == {"x": {"type": "float", "low": 0.0, "high": 1.0, "log": False}}


def test_parameters_that_only_come_together_do_not_decide_each_other() -> None:
    choice, layers = CategoricalDistribution(("a", "b")), IntDistribution(1, 2)
    of = {"n": [layers], "act": [choice], "norm": [choice], "kind": [choice], "depth": [layers]}
    trials = [
        {"n": 1, "kind": "a"},
        {"n": 2, "kind": "b", "act": "a", "norm": "b", "depth": 1},
        {"n": 2, "kind": "a", "act": "a", "norm": "b"},
    ]
    found = optuna_space.space(of, trials)
    assert {name: one.get("when") for name, one in found.items()} == {
        "n": None, "act": None, "norm": None, "kind": None, "depth": {"kind": ["b"]},
    }  # fmt: skip


def test_a_trial_in_the_hour_that_comes_twice_has_not_ended_before_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    file = tmp_path / "autumn.log"
    start, end = datetime(2025, 10, 26, 2, 50), datetime(2025, 10, 26, 2, 10)  # noqa: DTZ001
    try:
        with opened(str(file), new=True) as there:
            study = optuna.create_study(storage=there, study_name="autumn")
            trial = optuna.trial.create_trial(value=1.0)
            trial.datetime_start, trial.datetime_complete = start, end
            study.add_trial(trial)
        (found,) = optuna_import.read(str(file)).trials
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (found["started_at"], found["ended_at"]) == (
        "2025-10-26T02:50:00+02:00", "2025-10-26T02:10:00+01:00",
    )  # fmt: skip


def test_ranges_that_changed_on_the_way_are_held_by_one(tmp_path: Path) -> None:
    file = tmp_path / "moved.log"
    _one(file, IntDistribution(1, 4), 2)
    with opened(str(file), new=False) as there:
        optuna.load_study(study_name="one", storage=there).add_trial(
            optuna.trial.create_trial(params={"x": 9}, distributions={"x": IntDistribution(3, 9)}, value=1.0)
        )
    found = optuna_import.read(str(file))
    assert found.spec["space"]["x"] == {"type": "int", "low": 1, "high": 9, "log": False}
    assert found.notes == ["x had 2 ranges; the one here holds all of them."]


def test_of_several_objectives_one_is_chosen(tmp_path: Path) -> None:
    file = str(tmp_path / "two.log")
    with opened(file, new=True) as there:
        study = optuna.create_study(storage=there, study_name="two", directions=["minimize", "maximize"])
        with pytest.warns(ExperimentalWarning):
            study.set_metric_names(["loss", "accuracy"])
        study.optimize(lambda t: (t.suggest_float("x", 0, 1), 0.5), n_trials=2)
    with pytest.raises(ValueError, match=r"2 objectives \(0 loss, 1 accuracy\) and a study here has one"):
        optuna_import.read(file)
    found = optuna_import.read(file, objective=1)
    assert found.spec["objective"] == {"metric": "accuracy", "direction": "maximize"}
    assert [t["value"] for t in found.trials] == [0.5, 0.5]
    assert found.trials[0]["attributes"]["values"][1] == 0.5


@pytest.mark.parametrize(
    ("where", "study", "why"),
    [
        ("{tmp}/none.db", "", "there is no file"),
        ("sqlite:///{tmp}/none.db", "", "there is no file"),
        ("nosuch://u:secret@host/x", "", "nosuch://u:***@host/x does not work"),
        ("{tmp}/empty.log", "", "has 0 studies"),
        ("{tmp}/two.log", "", "has 2 studies, so name one with --study; it has a, b"),
        ("{tmp}/two.log", "c", "has no study 'c'; it has a, b"),
        ("{tmp}/two.log", "a", "study a has no finished trial among its 0"),
    ],
)
def test_a_storage_without_such_a_study_is_told(tmp_path: Path, where: str, study: str, why: str) -> None:
    (tmp_path / "empty.log").touch()
    with opened(str(tmp_path / "two.log"), new=True) as there:
        for name in "ab":
            optuna.create_study(study_name=name, storage=there)
    with pytest.raises(ValueError, match=re.escape(why)) as told:
        optuna_import.read(where.format(tmp=tmp_path), study)

    assert "secret" not in str(told.value)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("notes.txt", b"remember the milk\n", "is no journal of Optuna's"),
        ("notes.txt", b"no newline", "is no journal of Optuna's"),
        ("numbers.txt", b"17\n", "is no journal of Optuna's"),
        ("bytes.log", b"\xbd\x00\xff", "is no journal of Optuna's"),
        ("rows.db", None, "is a database of another program's"),
    ],
)
def test_a_file_of_others_is_neither_written_nor_read(
    varied: Varied, tmp_path: Path, name: str, content: bytes | None, why: str
) -> None:
    file = tmp_path / name
    if content is None:
        with closing(sqlite3.connect(file)) as there:
            there.execute("CREATE TABLE mine (x)")
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    for words in (["export", "optuna", NAME], ["import", "optuna"]):
        said = varied.tunesmith(*words, "--storage", str(file))
        assert (said.exit_code, f"{file} {why}" in said.output) == (ExitCode.USAGE, True), said.output
    assert file.read_bytes() == before


def test_the_database_of_a_service_is_never_taken_for_another_program_s(varied: Varied) -> None:
    """Optuna and MLflow would make their tables in it, and put their version over ours."""
    own = f"sqlite:///{varied.home / 'tunesmith.db'}"
    for words in (["optuna", NAME, "--storage", own], ["mlflow", NAME, "--tracking-uri", own]):
        refused = varied.tunesmith("export", *words)
        assert (refused.exit_code, "the database of a Tunesmith service" in refused.output) == (2, True)
    assert varied.tunesmith("import", "optuna", "--storage", own).exit_code == ExitCode.USAGE
    engine = create_engine(own)
    assert not {"study_directions", "version_info", "experiments"} & set(inspect(engine).get_table_names())
    engine.dispose()


def test_an_export_as_json_says_what_it_wrote(varied: Varied, tmp_path: Path) -> None:
    done = varied.tunesmith("export", "optuna", NAME, "--storage", str(tmp_path / "x.log"), "--json")
    assert json.loads(done.output) == {
        "name": NAME, "trials": 8, "left_out": 1, "storage": str(tmp_path / "x.log"),
    }  # fmt: skip


def test_every_state_of_ours_is_one_of_optuna_s() -> None:
    assert set(optuna_export.STATES.values()) == set(TrialState)
    assert set(SPACE) == {"lr", "weight_decay", "layers", "optimizer", "momentum"}
