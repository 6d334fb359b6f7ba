"""The API's answers as text for people. Shapes are those of `tunesmith_service.api.models`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Container, Mapping, Sequence
from typing import Any

from tunesmith_studies.grounds import Grounds

from tunesmith_service.cli import study_file, text
from tunesmith_service.conclusion import chosen
from tunesmith_service.ui import formats

Answer = Mapping[str, Any]

STYLES = {"active": "bold", "done": "green", "complete": "green", "failed": "red", "skipped": "dim"}
FINISHED = ("complete", "pruned", "failed", "cancelled")


# --- studies --------------------------------------------------------------------------------------


def study_list(studies: Sequence[Answer]) -> str:
    if not studies:
        return "No studies yet. `tunesmith study create -f digits-demo` starts a shipped example."
    header = ("name", "state", "stage", "best", "done", "pruned", "failed", "running", "waiting", "created")
    rows = [
        (
            s["name"], s["state"], s["stage"], s["best"] and s["best"]["value"], s["counts"]["complete"],
            s["counts"]["pruned"], s["counts"]["failed"], s["counts"]["running"], s["counts"]["waiting"],
            text.moment(s["created_at"]),
        )
        for s in studies
    ]  # fmt: skip
    return text.table(header, rows, right=header[3:9])


def study_page(study: Answer) -> str:
    """A study's facts, its stages with what they found, and the best trial."""
    facts = {
        "study": f"{study['name']} ({study['state']})",
        "task": study["task"],
        "objective": f"{study['direction']} {study['metric']}",
        "trials": counts(study["counts"]),
        "slot time": text.duration(study["gpu_hours"] * 3600),
        "created": text.moment(study["created_at"]),
        "ended": text.moment(study["ended_at"]),
    }
    facts |= {k: study[k] for k in ("reason",) if study[k]}
    facts |= {"waits for": study["waiting_for"]} if study["waiting_for"] else {}
    if study["test_reads"]:
        facts["test set read"] = ", ".join(f"#{r['trial']} ({r['stage']})" for r in study["test_reads"])
    parts = [text.facts(facts), stage_table(study["stages"])]
    why = [f"{s['name']}: {s['result']['why']}" for s in study["stages"] if s["result"]]
    why += [f"{s['name']}: {s['reason']}" for s in study["stages"] if s["reason"] and not s["result"]]
    why += [
        f"{s['name']} looks at {Grounds.from_json(s['grounds']).shown()}"
        for s in study["stages"]
        if s.get("grounds") and s["grounds"]["trials"]
    ]
    why += [
        f"{s['name']} was overridden by {s['override']['actor']}: {s['override']['reason']}"
        for s in study["stages"]
        if s["override"]
    ]
    if why:
        parts.append("\n".join(why))
    if study["blocked_by"]:
        parts.append(how_to_go_on(study))
    parts += [f"Warning: {w}" for w in study["warnings"]]
    parts.append("\n".join([best_line(study), *chosen_lines(study)]))
    return "\n\n".join(parts)


def stage_table(stages: Sequence[Answer]) -> str:
    """A line a stage; once a preflight has measured, with the time that each will take."""
    header = ["stage", "kind", "state", "trials", "epochs", "best"]
    measured = any(s["time"] for s in stages)
    header += ["takes about", "GPU-hours"] if measured else []
    rows = [
        (
            s["name"], s["kind"], s["state"], progress(s), epochs_of(s), best_of_stage(s),
            *(time_of(s) if measured else ()),
        )
        for s in stages
    ]  # fmt: skip
    return text.table(header, rows, right=header[3:])


def time_of(stage: Answer) -> tuple[str | None, float | None]:
    time = stage["time"]
    return (text.duration(time["seconds"]), time["gpu_hours"]) if time else (None, None)


def how_to_go_on(study: Answer) -> str:
    name, stage = study["name"], study["blocked_by"]
    return (
        f"Stage {stage} keeps the study from going on. What it found: tunesmith findings {name} --stage "
        f"{stage}\nGo on all the same: tunesmith stage override {name} {stage} --reason …"
    )


def counts(tally: Mapping[str, int]) -> str:
    """
    >>> counts({"waiting": 0, "running": 2, "complete": 5})
    '2 running, 5 complete'
    """
    return ", ".join(f"{n} {state}" for state, n in tally.items() if n) or "none yet"


def done_of(stage: Answer) -> tuple[int, int]:
    """Trials that have ended, and as far as one knows all there will be."""
    done = sum(stage["counts"][state] for state in FINISHED)
    known = sum(stage["counts"].values())
    if stage["state"] not in ("pending", "active"):
        return done, known
    forecast = stage["forecast"]
    return done, max(known, forecast["trials"] if forecast else 0)


def progress(stage: Answer) -> str:
    done, planned = done_of(stage)
    return f"{done}/{planned}"


def epochs_of(stage: Answer) -> int | None:
    """Epochs that the stage's trials have trained, once it has ended."""
    spent: int | None = (stage["result"] or {}).get("numbers", {}).get("epochs")
    return spent


def best_of_stage(stage: Answer) -> float | None:
    ranking = (stage["result"] or {}).get("ranking")
    return ranking[0]["value"] if ranking else None


def best_line(study: Answer) -> str:
    best = study["best"]
    if best is None:
        return "No trial has a value yet."
    value = f"{study['metric']} {text.value(best['value'])}"
    settings = text.params(best["params"], study["spec"]["fixed"])
    return f"Best: #{best['number']} ({best['stage']}) {value}  {settings}"


def chosen_lines(study: Answer) -> list[str]:
    """What the last final stage chose, if one has ended: seldom the best single trial."""
    found = chosen((s["name"], s["kind"], s["result"]) for s in study["stages"])
    if found is None:
        return []
    settings = text.params(found.params, study["spec"]["fixed"])
    seeds = text.count(found.seeds, "fresh seed")
    value = f"{study['metric']} {text.value(found.mean)}"
    return [f"Chosen by {found.stage}: {settings}, with {value} by the mean of {seeds}."]


def progress_line(study: Answer) -> str:
    """One line that changes whenever something worth saying has."""
    stages = [f"{s['name']} {progress(s)}" for s in study["stages"] if s["state"] != "pending"]
    best = study["best"]
    tail = f", best #{best['number']} {study['metric']} {text.value(best['value'])}" if best else ""
    waits = f", waits: {study['waiting_for']}" if study["waiting_for"] else ""
    return f"{study['name']} {study['state']}: {', '.join(stages)}{tail}{waits}"


def ended(study: Answer) -> str:
    return f"Study {study['name']} is {study['state']}. {best_line(study)}"


def moved(study: Answer) -> str:
    return f"Study {study['name']} is {study['state']}."


def put_away(study: Answer) -> str:
    return f"Study {study['name']} is {'archived' if study['archived'] else 'back in the list'}."


def created(study: Answer) -> str:
    return f"{begun(study)}\nFollow it: tunesmith study watch {study['name']}"


def begun(study: Answer) -> str:
    """A new study in a line, and what it was warned of."""
    trials, stages = sum(f["trials"] for f in study["forecast"].values()), len(study["forecast"])
    plan = f"at most {text.count(trials, 'trial')} in {text.count(stages, 'stage')}"
    lines = [f"Study {study['name']} is {study['state']}: {plan}.", *of_recipe(study)]
    return "\n".join([*lines, *(f"Warning: {w}" for w in study["warnings"])])


def forecast(plan: Answer) -> str:
    """What a study would run at most."""
    header = ("stage", "trials", "epochs", "likely", "snapshots")
    rows = [(name, f["trials"], f["epochs"], likely(f), f["snapshots"]) for name, f in plan["stages"].items()]
    rows.append(("all", plan["trials"], plan["epochs"], plan["likely_epochs"], plan["snapshots"]))
    size = plan["snapshot_bytes"]
    bytes_line = (
        f"Snapshots: {formats.size(size)} in all."
        if size is not None
        else "Snapshots: their size is known once a trial of this task has left one."
    )
    steps = [
        f"{name} takes {f['least_steps']} optimizer steps or more: of a small set more epochs than these."
        for name, f in plan["stages"].items()
        if f["least_steps"]
    ]
    lines = [text.table(header, rows, right=header[1:]), *steps, bytes_line, *of_recipe(plan)]
    lines += [f"Warning: {w}" for w in plan["warnings"]]
    return "\n".join([*lines, f"At most; nothing was created. Study: {plan['name']}"])


def likely(forecast: Answer) -> int:
    """Epochs as it usually comes out."""
    usual: int | None = forecast["likely_epochs"]
    return forecast["epochs"] if usual is None else usual


def of_recipe(study: Answer) -> list[str]:
    """Which recipe wrote a new study's stages, and what of it this study cannot have."""
    if not study["recipe"]:
        return []
    return [f"The stages are those of the recipe {study['recipe']}.", *study["notes"]]


def best(trials: Sequence[Answer], study: Answer) -> str:
    """Trials in order, with the settings that the study did not fix, and what to know of its test figures."""
    if not trials:
        return "No trial has a value yet."
    fixed = study["spec"]["fixed"]
    header = ("trial", "stage", "value", "settings")
    rows = [(f"#{t['number']}", t["stage"], t["value"], text.params(t["params"], fixed)) for t in trials]
    warnings = [f"Warning: {w}" for w in study["warnings"]]
    return "\n".join([text.table(header, rows, right=["value"]), *chosen_lines(study), *warnings])


# --- findings -------------------------------------------------------------------------------------


def clone_forecast(planned: Answer) -> str:
    """What a clone would differ in, and what it would run."""
    return f"{differences(planned['differences'])}\n\n{forecast(planned)}"


def cloned(made: Answer) -> str:
    return f"{created(made)}\n\n{differences(made['differences'])}"


def differences(found: Sequence[Answer]) -> str:
    """A line a field: what it was, and what it is now."""
    if not found:
        return "It differs in nothing but its name."
    rows = [(d["path"], _field(d["was"]), _field(d["now"])) for d in found]
    return text.table(("field", "was", "is"), rows)


def _field(value: Any) -> str:
    return "–" if value is None else _figure(value)


def tags(found: Sequence[Answer]) -> str:
    if not found:
        return "No trial has a tag. `tunesmith trial tag STUDY NUMBER --add WORD` gives it one."
    return text.table(("tag", "trials"), [(t["tag"], t["trials"]) for t in found], right=("trials",))


def stage_forecast(planned: Answer) -> str:
    """A stage as it would be added, as a file, and what it would run."""
    most = planned["forecast"]
    runs = f"At most {text.count(most['trials'], 'trial')}, {text.count(most['epochs'], 'epoch')} in all."
    return f"{study_file.written(planned['stage']).rstrip()}\n\n{runs} Nothing was added."


def findings(study: str, found: Sequence[Answer], *, numbers: bool = False, passed: bool = False) -> str:
    """A paragraph each: level, stage and sentence, then what to do. Without `passed`, what was checked and
    is sound is only counted."""
    if not found:
        return "Nothing found yet: findings come when a stage ends."
    shown = [f for f in found if passed or f["level"] != "pass"]
    lines = ["\n".join([_finding(f, numbers), *_proposal(study, f)]) for f in shown]
    if sound := len(found) - len(shown):
        lines.append(
            f"{text.count(sound, 'check')} passed; --level pass shows {'it' if sound == 1 else 'them'}."
        )
    return "\n".join(lines)


def _finding(found: Answer, numbers: bool) -> str:
    trials = "".join(f" #{n}" for n in found["trials"])
    lines = [f"{text.bold(found['level'].ljust(4))}  {found['stage']}: {found['sentence']}{trials}"]
    lines += [f"      → {found['next_step']}"] if found["next_step"] else []
    if numbers:
        lines += [f"      rule: {found['rule']}"] if found["rule"] else []
        lines += [f"      {name}: {_figure(value)}" for name, value in found["numbers"].items()]
    return "\n".join(lines)


def _proposal(study: str, found: Answer) -> list[str]:
    if not found.get("proposes"):
        return []
    words = shlex.join([study, found["stage"], "-p", found["numbers"]["parameter"]])
    return [f"      → tunesmith stage extend {words}"]


def _figure(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict) else text.value(value)


# --- trials ---------------------------------------------------------------------------------------


def trial_list(trials: Sequence[Answer], fixed: Container[str] = ()) -> str:
    """Trials in order, with the settings that the study did not fix."""
    if not trials:
        return "No such trials."
    header = ("trial", "stage", "state", "why", "epochs", "value", "settings")
    rows = [
        (
            f"#{t['number']}", t["stage"], t["state"], t["stop_reason"], steps_done(t),
            t["value"], text.params(t["params"], fixed),
        )
        for t in trials
    ]  # fmt: skip
    return text.table(header, rows, right=("epochs", "value"))


def steps_done(trial: Answer) -> str:
    """
    >>> steps_done({"unit": "epoch", "step": 3, "epochs": 5})
    '3/5'
    >>> steps_done({"unit": "step", "step": 300, "epochs": 5})
    '300 steps'
    """
    done = trial["step"]
    return f"{done}/{trial['epochs']}" if trial["unit"] == "epoch" else text.count(done, "step")


def trial_page(trial: Answer) -> str:
    """One trial: how it went, its attempts, its curve, and its error if it has one."""
    facts = {
        "trial": f"#{trial['number']} of stage {trial['stage']}, {trial['key']}",
        "state": f"{trial['state']}, {trial['stop_reason']}" if trial["stop_reason"] else trial["state"],
        "value": trial["value"],
        "settings": text.params(trial["params"]),
        "epochs": f"{trial['step']} of {trial['epochs']}",
        "steps": trial["step"],
        "worker": trial["worker"],
        "started": text.moment(trial["started_at"]),
        "ended": text.moment(trial["ended_at"]),
    }
    del facts["steps" if trial["unit"] == "epoch" else "epochs"]
    if trial["kind"] != "train":
        facts["value"] = "none: it measures; `tunesmith findings` says what its stage made of it"
    if trial["test_read"]:
        facts["test set"] = f"read; no. {trial['test_read']} of its project to read this task's"
    if trial["start"]:
        facts["goes on from"] = f"#{trial['start']['trial']} at {trial['unit']} {trial['start']['step']}"
    if trial["variant_of"] is not None:
        facts["variant of"] = f"#{trial['variant_of']}"
    if trial["retry_of"] is not None:
        facts["again after"] = f"#{trial['retry_of']}"
    if trial["snapshots"]:
        facts["snapshots"] = f"at {trial['unit']} {', '.join(map(str, trial['snapshots'][-5:]))}"
    if trial["imported"]:
        facts["imported"] = f"#{trial['imported']['number']} where it was run"
    parts = [text.facts(facts)]
    if len(trial["attempts"]) > 1:
        header = ("attempt", "worker", f"from {trial['unit']}", "ending")
        rows = [(a["attempt"], a["worker"], a["resume_step"], a["ending"]) for a in trial["attempts"]]
        parts.append(text.table(header, rows))
    if trial["findings"]:
        parts.append(
            "\n".join(_finding(f | {"stage": f["kind"], "trials": []}, False) for f in trial["findings"])
        )
    if trial["curve"]["points"]:
        points = trial["curve"]["points"]
        tabled = trial["kind"] in ("preflight", "evaluate")  # many names, each of them once
        parts.append(figures(points) if tabled else curve(points, trial["unit"]))
    if trial["error"]:
        error = trial["error"]
        parts.append(f"{error['kind']}: {error['message']}\n{error.get('traceback', '')}".rstrip())
    return "\n\n".join(parts)


def figures(points: Sequence[Answer]) -> str:
    """The newest figure of each name, a line each."""
    newest = {name: value for point in points for name, value in point["metrics"].items()}
    return text.table(("measured", "value"), newest.items(), right=("value",))


def curve(points: Sequence[Answer], unit: str = "epoch") -> str:
    names = list(dict.fromkeys(name for p in points for name in p["metrics"]))
    header = (unit, *names)
    return text.table(
        header, [(p["step"], *(p["metrics"].get(n) for n in names)) for p in points], right=header
    )


def log_text(chunks: Sequence[Answer]) -> str:
    return "".join(chunk["text"] for chunk in chunks)


def enqueued(answer: Answer) -> str:
    return "Queued " + ", ".join(f"#{n}" for n in answer["numbers"]) + "."


def cancelled(answer: Answer) -> str:
    return f"Trial #{answer['number']} is {answer['state']}."


def fetched(told: Answer) -> str:
    return f"Trial #{told['number']} at step {told['step']}: {told['file']}"


# --- tokens ---------------------------------------------------------------------------------------


def new_token(token: Answer) -> str:
    expires = f"until {text.moment(token['expires_at'])}" if token["expires_at"] else "for ever"
    return (
        f"{token['token']}\n"
        f"Token {token['key_id']} ({token['name']}, {token['role']}) works {expires}. It is shown this once."
    )


def secret_alone(token: Answer) -> str:
    return str(token["token"])


def token_list(tokens: Sequence[Answer]) -> str:
    header = ("key id", "name", "role", "expires", "last used", "revoked")
    moments = ("expires_at", "last_used_at", "revoked_at")
    rows = [(t["key_id"], t["name"], t["role"], *(text.moment(t[m]) for m in moments)) for t in tokens]
    return text.table(header, rows)


def session_list(sessions: Sequence[Answer]) -> str:
    header = ("key", "browser", "begun", "last seen", "ends")
    moments = ("begun_at", "last_seen_at", "expires_at")
    return text.table(
        header, [(s["key"], s["browser"], *(text.moment(s[m]) for m in moments)) for s in sessions]
    )


def audit_list(entries: Sequence[Answer]) -> str:
    if not entries:
        return "Nothing of that kind was done."
    header = ("n", "when", "action", "who", "from", "what")
    rows = [
        (
            e["n"], text.moment(e["at"]), e["action"], e["actor"], e["address"] or "–",
            " ".join([e["subject"], *(f"{k}={_brief(v)}" for k, v in e["detail"].items())]),
        )
        for e in entries
    ]  # fmt: skip
    return text.table(header, rows)


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def audit_verified(answer: Answer) -> str:
    head, anchor = answer["head"], answer["anchor"]
    gone = f" (the first {anchor['n']} are gone after their time)" if anchor["n"] else ""
    return (
        f"The audit log is whole up to entry {head['n']}{gone}. Its head, to be noted elsewhere:\n"
        f"{head['n']}:{head['hash']}"
    )


def login(code: Answer) -> str:
    return f"{code['url']}\nIt opens once, within {text.duration(code['expires_seconds'])}."
