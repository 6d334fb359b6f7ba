"""What can be refused, as a tree. Each class carries its HTTP status and the stable `type` of its
problem document; the one error handler in `app` turns any of them into problem+json.

    TunesmithError
    ├── Refused                 a command was refused; nothing was written
    │   ├── NotFound            404 not_found
    │   ├── Conflict            409 conflict
    │   │   ├── LeaseLost       409 lease_lost
    │   │   ├── AlreadyFinal    409 already_final    (with the stored outcome)
    │   │   ├── SeqGap          409 seq_gap          (with expected_seq)
    │   │   ├── SeqReused       409 seq_reused
    │   │   ├── ClaimStale      409 claim_stale
    │   │   ├── Superseded      409 superseded
    │   │   ├── AlreadyCreated  409 already_created
    │   │   └── SnapshotReused  409 snapshot_reused
    │   ├── Unprocessable       422 unprocessable    (with errors: pointer and message)
    │   │   └── KeyReused       422 key_reused
    │   ├── Unauthorized        401 unauthorized
    │   │   └── LoginCodeInvalid 401 login_code_invalid
    │   ├── Forbidden           403 forbidden
    │   ├── Changed             412 changed          (with what it is now)
    │   ├── TooSlow             408 too_slow
    │   ├── TooLarge            413 too_large
    │   ├── TooMany             429 too_many         (with Retry-After)
    │   └── NoSpace             507 no_space
    └── Unavailable             503 unavailable      (the database is away; try again)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

FAULT = "this is a fault of the service; its log has the details"


class TunesmithError(Exception):
    """`detail` is one sentence for a person that says what to do."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal"

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        outcome: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = [dict(e) for e in errors]  # {"pointer": "/space/lr/low", "message": "…"}
        self.outcome = dict(outcome) if outcome is not None else None


class Refused(TunesmithError):
    status = 400
    type = "refused"


class NotFound(Refused):
    status = 404
    type = "not_found"


class Conflict(Refused):
    status = 409
    type = "conflict"


class LeaseLost(Conflict):
    """The trial is no longer this attempt's: it expired, was handed on, or never was."""

    type = "lease_lost"


class AlreadyFinal(Conflict):
    """The trial has ended; `outcome` says how."""

    type = "already_final"


class SeqGap(Conflict):
    """A report came before its predecessor; send again from `outcome.expected_seq`."""

    type = "seq_gap"


class SeqReused(Conflict):
    """This sequence number was used for other points."""

    type = "seq_reused"


class ClaimStale(Conflict):
    """The lease that this claim once got has ended; claim with a new id."""

    type = "claim_stale"


class Superseded(Conflict):
    """The worker has started anew since, `outcome.starts` times in all; a supervisor that runs registers with
    one more and a new boot id."""

    type = "superseded"


class AlreadyCreated(Conflict):
    """This key has made a token before; its secret is never shown twice."""

    type = "already_created"


class SnapshotReused(Conflict):
    """This attempt has committed other bytes for this step."""

    type = "snapshot_reused"


class Unprocessable(Refused):
    status = 422
    type = "unprocessable"


class KeyReused(Unprocessable):
    """The Idempotency-Key was used with another body."""

    type = "key_reused"


class Unauthorized(Refused):
    status = 401
    type = "unauthorized"


class LoginCodeInvalid(Unauthorized):
    """A login link works once, for a short time."""

    type = "login_code_invalid"


class Forbidden(Refused):
    status = 403
    type = "forbidden"


class Changed(Refused):
    """It is no longer what If-Match names; `outcome` has what it is now."""

    status = 412
    type = "changed"


class TooSlow(Refused):
    status = 408
    type = "too_slow"


class TooLarge(Refused):
    status = 413
    type = "too_large"


class TooMany(Refused):
    """Too often; `retry_after_seconds` says when to try again."""

    status = 429
    type = "too_many"

    def __init__(self, detail: str, *, retry_after_seconds: int = 1, **more: Any) -> None:
        super().__init__(detail, **more)
        self.retry_after_seconds = retry_after_seconds


class NoSpace(Refused):
    status = 507
    type = "no_space"


class Unavailable(TunesmithError):
    status = 503
    type = "unavailable"
