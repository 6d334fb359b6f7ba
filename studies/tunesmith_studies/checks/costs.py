"""Checks of what training costs: time a step, and memory."""

from __future__ import annotations

from tunesmith_studies.checks.said import Known, Measured, Speaker, Verdicts, below, share

SLOW = 0.5
"""Seconds that an optimizer step takes in the median from which on it is worth a warning."""

PARTS = {
    "loading": (
        "loading and augmenting samples",
        "load ahead in workers, keep data on the device, augment in batches",
    ),
    "forward": ("the forward pass", "smaller inputs or network, autocast (precision), or a faster device"),
    "backward": ("the backward pass", "smaller inputs or network, autocast (precision), or a faster device"),
    "step": ("the optimizer's step", "larger batches, or a simpler optimizer"),
}


def time(m: Measured, known: Known) -> Verdicts:
    """How long a step takes, and on what."""
    found = below(m, "time/")
    say = Speaker(m, "time", f"median below {1000 * SLOW:g} ms", "time/")
    if "median" not in found:
        return
    median, tail = found["median"], found.get("p95", found["median"])
    of = f" of {found['batch']:g} samples" if "batch" in found else ""
    seen = f"A step{of} takes {_ms(median)}, {_ms(tail)} at the 95th percentile"
    spent = {name: found.get(name, 0.0) for name in PARTS}
    most = max(spent, key=spent.__getitem__)
    if spent[most] > 0:
        seen += f"; {share(spent[most] / sum(spent.values()))} of it {PARTS[most][0]}"
    if median > SLOW:
        yield say.warn(f"{seen}.", PARTS[most][1])
    yield say.sound(f"{seen}.")


def memory(m: Measured, known: Known) -> Verdicts:
    """The study's largest batch fits."""
    found = below(m, "memory/")
    say = Speaker(m, "memory", "the study's largest batch is at most the largest that fits", "memory/")
    if "largest" not in found:
        return
    largest, wanted = found["largest"], known.largest_batch
    how = "tried" if found.get("tried") else "worked out from free memory"
    if wanted is not None and wanted > largest:
        sentence = f"Batches of {wanted:,} do not fit: {largest:,.0f} samples do ({how})."
        yield say.warn(
            sentence, f"use batches of at most {largest:g} with accumulation, or a smaller network"
        )
    samples = m.get("time/train_samples", largest)
    if largest > samples:
        yield say.sound(f"All {samples:,.0f} training samples would fit into one batch ({how}).")
    yield say.sound(f"Batches of up to {largest:,.0f} samples fit ({how}).")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
