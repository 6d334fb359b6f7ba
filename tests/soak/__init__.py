"""Real processes under chaos: a service, its database, workers and trainers, killed and stopped at random,
behind a proxy that delays, drops and replays requests. `make soak MINUTES=20 DB=postgres`.

`proxy` has the network and the history of all calls; `worker`, `nursery` and `journal` the light workers'
processes and what they note; `deployment` what is started and killed, `faults` what happens to it and when,
`studies` what there is to do, `chaos` a soak from start to end; `zombies`, `requeues`, `summary` and `table`
say what it came to.
"""
