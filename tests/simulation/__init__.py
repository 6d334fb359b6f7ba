"""A whole deployment in one process, on a virtual clock, from one seed.

The service (HTTP application, writer, waiting room, sweeper, planner), the workers (supervisor, slots,
spools, beats, deliveries) and the client are the real code. Simulated is what they stand on: time and threads
(`loop`), processes that are killed at any await, stopped and continued (`loop.Process`), the network
(`network`), the database's disk (`disk`) and what a trainer does (`trainer`). `faults` and `people` say what
happens when; `run` plays one seed and asks `invariants` what it came to.

    python -m simulation --seed 17 [--trace]        in the directory tests/
"""
