"""Workers where there is room for them: on this machine, or by the scheduler that a cluster has already.

One file an engine, each thin over what the scheduler does by itself: it places workers, starts them again and
takes machines away; what then becomes of trials is the business of leases and snapshots, as everywhere.
`local.launch`, `slurm.launch`: each takes a `Crew` and what its scheduler alone knows.
"""

from tunesmith_workers.launching.crew import Crew, LaunchError

__all__ = ["Crew", "LaunchError"]
