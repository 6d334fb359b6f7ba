"""Three empty routes of FastAPI: what claim, report and finish cost where nothing is done.

    python empty_routes.py PORT TOKEN

The bodies, their models and the check of the token are the service's own, and so are uvicorn's settings; the
answers are made beforehand. `cycles.py` measures how much of their rate the service has.
"""

from __future__ import annotations

import hmac
import sys
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from tunesmith_service import wire
from tunesmith_service.api import examples
from tunesmith_service.tokens import Token

TOKEN = Token.read(sys.argv[2])
assert TOKEN is not None, "TOKEN is one of the service's, tsm_…"
HASHES = {TOKEN.key_id: TOKEN.secret_hash}
GRANTED = wire.ClaimReply.model_validate(examples.CLAIM_REPLY)
REPORTED = wire.Reported(ttl_seconds=30.0)
FINISHED = wire.Finished.model_validate(examples.FINISHED)


async def known(authorization: Annotated[str, Header()]) -> str:
    token = Token.read(authorization.removeprefix("Bearer "))
    if token is None or not hmac.compare_digest(HASHES.get(token.key_id, b""), token.secret_hash):
        raise HTTPException(401)
    return token.key_id


app = FastAPI(openapi_url=None)


@app.put("/api/v1/workers/{worker_id}")
async def register(
    worker_id: str, body: wire.Register, who: Annotated[str, Depends(known)]
) -> wire.Registered:
    return wire.Registered(ttl_seconds=30.0, beat_seconds=10.0)


@app.post("/api/v1/claims")
async def claim(body: wire.ClaimRequest, who: Annotated[str, Depends(known)]) -> wire.ClaimReply:
    return GRANTED


@app.post("/api/v1/leases/{trial_id}/reports")
async def report(
    trial_id: int,
    body: wire.Report,
    who: Annotated[str, Depends(known)],
    tunesmith_lease: Annotated[str, Header()],
) -> wire.Reported:
    return REPORTED


@app.post("/api/v1/leases/{trial_id}/finish")
async def finish(
    trial_id: int,
    body: wire.Finish,
    who: Annotated[str, Depends(known)],
    tunesmith_lease: Annotated[str, Header()],
) -> wire.Finished:
    return FINISHED


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), http="h11", lifespan="off", access_log=False, log_config=None,
                server_header=False)  # fmt: skip
