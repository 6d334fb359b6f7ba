"""Put on a worker's PYTHONPATH by a test: notes each report that the service has acknowledged.

One JSON line a report in the file that TUNESMITH_TEST_ACKNOWLEDGED names, written after the reply.
"""

import json
import os

if path := os.environ.get("TUNESMITH_TEST_ACKNOWLEDGED"):
    from tunesmith_service import client, wire

    send = client.WorkerClient.report

    async def report(self: client.WorkerClient, lease: client.Lease, body: wire.Report) -> wire.Reported:
        reply = await send(self, lease, body)
        points = body.model_dump(mode="json")["points"]
        line = {"trial_id": lease.trial_id, "attempt": lease.attempt, "seq": body.seq, "points": points}
        with open(path, "a", encoding="utf-8") as file:  # noqa: ASYNC230  (one short line)
            file.write(json.dumps(line) + "\n")
        return reply

    client.WorkerClient.report = report  # type: ignore[method-assign]
