"""What a server may be told, from flags, the environment, a file, or by default; the first that says
something wins. Each setting has a default, a unit and a help line, which the flags and the README show.

A setting `ttl_seconds` is the flag `--ttl-seconds`, the variable `TUNESMITH_TTL_SECONDS` and the key
`ttl_seconds` of `tunesmith.toml`. For secrets, `TUNESMITH_DATABASE_URL_FILE` names a file that holds
the value, as container platforms hand them over.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

PREFIX = "TUNESMITH_"
FILE = Path("tunesmith.toml")
MIB = 2**20
ONE_PUT_BYTES = 5 * 1024 * MIB
"""What S3 takes in one request; each file goes in one, so that its signature holds the file's hash."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""What listens at all addresses, and the loopback's among them."""
SWEEPS_A_LEASE = 1.5
"""How many sweeps a lease lives through at least."""
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_PREFIX = re.compile(r"(?!/(?:ui|api)(?:/|$))(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")


class SettingsError(ValueError):
    """A setting that cannot be used, as one sentence for the person who wrote it."""


def _setting(default: Any, unit: str, help_line: str, **limits: Any) -> Any:
    return Field(default, description=help_line, json_schema_extra={"unit": unit}, **limits)


class Settings(BaseModel):
    """A server's settings, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    home: Path = _setting(Path(".tunesmith"), "directory", "Where the database, blobs and tokens live.")
    database_url: str = _setting(
        "", "SQLAlchemy URL", "PostgreSQL to use, as postgresql+psycopg://…; empty: SQLite in the home."
    )
    blob_store: str = _setting(
        "",
        "s3:// address",
        "Bucket for snapshots, logs and artifacts, as s3://BUCKET/PREFIX; empty: the home.",
    )
    s3_endpoint: str = _setting(
        "", "URL", "Where the bucket is, as workers reach it too, such as https://minio:9000; empty: AWS."
    )
    s3_region: str = _setting("us-east-1", "region", "Region of the bucket.")
    host: str = _setting("127.0.0.1", "address", "Address to listen on.")
    port: int = _setting(8787, "TCP port", "Port to listen on; 0 takes a free one.", ge=0, le=65535)
    behind_proxy: bool = _setting(
        False, "yes or no", "A proxy in front of this server speaks TLS and sets X-Forwarded-* headers."
    )
    tls_cert: Path | None = _setting(None, "PEM file", "Certificate chain, to speak TLS without a proxy.")
    tls_key: Path | None = _setting(None, "PEM file", "Private key of the certificate.")
    public_url: str = _setting("", "URL", "How people reach this server; empty: from host and port.")
    root_path: str = _setting(
        "", "path", "Where a proxy serves this, such as /lab/tunesmith; empty: the path of --public-url."
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (), "host names", "Names that requests may give in their Host header, beside loopback's and --host."
    )
    accept_restore: bool = _setting(
        False, "yes or no", "Serve a database older than the one served before; all leases end."
    )
    ttl_seconds: float = _setting(
        30.0, "seconds", "A lease lives this long after each sign of life.", ge=1, le=3600
    )
    sweep_seconds: float = _setting(2.0, "seconds", "How often expired leases are taken back.", gt=0, le=10)
    planner: bool = _setting(True, "yes or no", "Run the planner process beside this server.")
    body_bytes: int = _setting(MIB, "bytes", "Largest JSON body.", ge=1024, le=8 * MIB)
    body_seconds: float = _setting(10.0, "seconds", "A JSON body must have come within this time.", gt=0)
    json_depth: int = _setting(16, "levels", "Deepest nesting of a JSON body.", ge=8, le=64)
    url_bytes: int = _setting(4096, "bytes", "Longest URL.", ge=1024, le=65_536)
    header_bytes: int = _setting(16_384, "bytes", "A request's headers, in all.", ge=4096, le=262_144)
    in_flight: int = _setting(64, "requests", "So many are worked on at once.", ge=4, le=10_000)
    waiting: int = _setting(128, "requests", "So many more may wait for that.", ge=0, le=100_000)
    waiting_seconds: float = _setting(5.0, "seconds", "A request waits no longer than this.", gt=0, le=60)
    person_rate: float = _setting(50.0, "requests a second", "What a person's token may ask.", gt=0)
    person_burst: int = _setting(100, "requests", "So many of them at once.", ge=1)
    slot_rate: float = _setting(50.0, "requests a second", "What a worker's slot may ask.", gt=0)
    slot_burst: int = _setting(100, "requests", "So many of them at once.", ge=1)
    uploads: int = _setting(64, "uploads", "So many run at once.", ge=1)
    study_params: int = _setting(256, "hyperparameters", "In a study's space and fixed values.", ge=1)
    study_metrics: int = _setting(256, "names", "Metrics that a study's trials may report.", ge=1)
    trial_points: int = _setting(100_000, "points", "In a trial's curve, over all attempts.", ge=1)
    project_queued: int = _setting(100_000, "trials", "Those by hand are refused beyond so many.", ge=1)
    project_snapshots_bytes: int = _setting(
        500 * 1024 * MIB, "bytes", "Snapshots of a project, beyond which no more are taken.", ge=0
    )
    snapshot_header_bytes: int = _setting(8 * MIB, "bytes", "Longest header of a snapshot.", ge=1024)
    snapshot_tensors: int = _setting(65_536, "tensors", "Tensors in a snapshot.", ge=1)
    upload_bytes: int = _setting(2048 * MIB, "bytes", "Largest snapshot or artifact.", ge=1024)
    upload_idle_seconds: float = _setting(
        30.0, "seconds", "An upload that sends nothing for this long is cut off.", gt=0
    )
    reserve_bytes: int = _setting(
        2048 * MIB, "bytes", "With less free disk than this, new studies, trials and uploads wait.", ge=0
    )
    reserve_percent: float = _setting(
        1.0, "per cent", "With less of the disk free than this, they wait as well.", ge=0, lt=100
    )
    ballast_bytes: int = _setting(
        256 * MIB, "bytes", "Room beside SQLite that is given up when the disk is full; 0: none.", ge=0
    )
    blob_grace_seconds: float = _setting(
        86_400.0, "seconds", "Bytes and snapshots that nothing needs are kept this much longer.", ge=0
    )
    collect_seconds: float = _setting(3600.0, "seconds", "How often unneeded bytes are looked for.", gt=0)
    login_code_seconds: float = _setting(600.0, "seconds", "A one-time login code works this long.", gt=0)
    session_seconds: float = _setting(
        604_800.0, "seconds", "A dashboard session lasts this long at most.", gt=0
    )
    session_idle_seconds: float = _setting(
        43_200.0, "seconds", "A dashboard session that sends nothing for this long ends.", ge=600
    )
    notify_hosts: tuple[str, ...] = _setting(
        (), "host names", "Webhooks may go to these hosts alone; empty: to any that an operator names."
    )
    notify_seconds: float = _setting(10.0, "seconds", "A try to notify takes at most this long.", gt=0, le=60)
    notify_tries: int = _setting(
        8, "tries", "A notification that nobody takes is given up after these.", ge=1, le=20
    )
    notify_retry_seconds: float = _setting(
        10.0,
        "seconds",
        "Until the second try of a notification; each further one comes after twice the time.",
        gt=0,
    )
    notify_stuck_seconds: float = _setting(
        600.0, "seconds", "A study with trials that wait, of which none runs for so long, is stuck.", ge=1
    )
    smtp_host: str = _setting("", "host name", "Mail server for notifications; empty: no e-mail is sent.")
    smtp_port: int = _setting(587, "TCP port", "Port of the mail server.", ge=1, le=65535)
    smtp_security: Literal["starttls", "tls", "none"] = _setting(
        "starttls", "starttls, tls or none", "How the line to the mail server is made private."
    )
    smtp_user: str = _setting("", "name", "Login at the mail server; empty: none.")
    smtp_password: str = _setting(
        "", "secret", "Its password; better in a file: TUNESMITH_SMTP_PASSWORD_FILE."
    )
    smtp_from: str = _setting("", "address", "Sender of the e-mails.")
    audit_days: float = _setting(400.0, "days", "Entries of the audit log are kept this long.", ge=1)
    shutdown_seconds: float = _setting(
        5.0, "seconds", "Requests under way at shutdown get this long to end.", gt=0, le=60
    )
    log_format: Literal["text", "json"] = _setting("text", "text or json", "How log lines are written.")

    @field_validator("allowed_hosts", "notify_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [h.strip().lower() for h in value.split(",") if h.strip()] if isinstance(value, str) else value

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("root_path", "public_url", mode="after")
    @classmethod
    def _no_slash_at_the_end(cls, value: str) -> str:
        return value.rstrip("/")

    @model_validator(mode="after")
    def _a_usable_prefix(self) -> Settings:
        public = urlsplit(self.public_url).path
        if self.root_path and self.public_url and public != self.root_path:
            raise ValueError(
                f"--root-path {self.root_path} and --public-url {self.public_url} do not end alike; "
                "give the URL with that path, and --root-path is not needed"
            )
        if self.prefix and not _PREFIX.fullmatch(self.prefix):
            raise ValueError(
                f"the path {self.prefix} cannot be a prefix: it begins with a slash, has letters, digits and "
                "._~- between slashes, and does not begin with /ui or /api, which are this server's own"
            )
        return self

    @field_validator("blob_store", mode="after")
    @classmethod
    def _a_bucket(cls, value: str) -> str:
        if value and not _BUCKET.fullmatch(value.rstrip("/")):
            raise ValueError(
                f"{value!r} is no bucket: give s3://BUCKET or s3://BUCKET/PREFIX, of letters, digits and ._- "
                "with slashes between"
            )
        return value.rstrip("/")

    @field_validator("s3_endpoint", mode="after")
    @classmethod
    def _an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname or parts.username):
            raise ValueError("an address such as https://minio.example.org:9000, without name and password")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _fits_into_one_request(self) -> Settings:
        if self.blob_store and self.upload_bytes > ONE_PUT_BYTES:
            raise ValueError(
                f"--upload-bytes {self.upload_bytes} is more than S3 takes in one request, {ONE_PUT_BYTES}"
            )
        return self

    @model_validator(mode="after")
    def _leases_are_swept_in_time(self) -> Settings:
        """A round that comes later than a lease lives would look like an outage, which prolongs leases."""
        if self.sweep_seconds * SWEEPS_A_LEASE > self.ttl_seconds:
            raise ValueError(
                f"--ttl-seconds {self.ttl_seconds:g} is too short for --sweep-seconds "
                f"{self.sweep_seconds:g}: leases would never be taken back; sweep every "
                f"{self.ttl_seconds / SWEEPS_A_LEASE:.3g} seconds or more often"
            )
        return self

    @model_validator(mode="after")
    def _mail_has_a_sender(self) -> Settings:
        if self.smtp_host and "@" not in self.smtp_from:
            raise ValueError(
                f"--smtp-host needs --smtp-from, the address that e-mails come from, got {self.smtp_from!r}"
            )
        return self

    @model_validator(mode="after")
    def _no_plain_http_abroad(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key go together; one of them is missing")
        if not self.is_loopback and not self.behind_proxy and self.tls_cert is None:
            raise ValueError(
                f"--host {self.host} listens beyond this machine, where tokens would travel in the clear; "
                "give --tls-cert and --tls-key, or --behind-proxy if a proxy in front speaks TLS"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_sqlite(self) -> bool:
        return not self.database_url or self.database_url.startswith("sqlite")

    @property
    def url(self) -> str:
        """The database's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.home / 'tunesmith.db'}"

    @property
    def blobs_dir(self) -> Path:
        return self.home / "blobs"

    @property
    def operator_token_file(self) -> Path:
        return self.home / "operator.token"

    @property
    def worker_token_file(self) -> Path:
        return self.home / "worker.token"

    @property
    def address(self) -> str:
        """How people reach this server, without a slash at the end."""
        if self.public_url:
            return self.public_url
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}{self.prefix}"

    @property
    def near_address(self) -> str:
        """How processes of this machine reach it: with TLS, by the name that the certificate has."""
        if self.tls_cert:
            return self.address
        host = EVERYWHERE.get(self.host, self.host)
        return self.model_copy(update={"host": host, "public_url": ""}).address

    @property
    def prefix(self) -> str:
        """What stands before each path of ours in the addresses that people see, or nothing."""
        return self.root_path or urlsplit(self.public_url).path


def unit_of(name: str) -> str:
    extra = Settings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["unit"])


def load(flags: Mapping[str, Any], env: Mapping[str, str], file: Path = FILE) -> Settings:
    """Settings from flags (those that are not None), then `env`, then `file`, then defaults.

    Raises: SettingsError, naming the setting and where it came from.
    """
    merged = _from_file(file) | _from_env(env) | {k: v for k, v in flags.items() if v is not None}
    try:
        return Settings(**merged)
    except ValidationError as e:
        problems = [
            ": ".join([*(f"--{str(p).replace('_', '-')}" for p in x["loc"][:1]), _said(x["msg"])])
            for x in e.errors()
        ]
        raise SettingsError("; ".join(problems)) from None


def _said(message: str) -> str:
    return message.removeprefix("Value error, ")


def _from_env(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in Settings.model_fields:
        variable = PREFIX + name.upper()
        if variable in env:
            found[name] = env[variable]
        elif f"{variable}_FILE" in env:
            path = Path(env[f"{variable}_FILE"])
            try:
                found[name] = path.read_text(encoding="utf-8").strip()
            except OSError as e:
                raise SettingsError(
                    f"{variable}_FILE names {path}, which cannot be read: {e.strerror}"
                ) from e
    return found


def _from_file(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SettingsError(f"{file} is not TOML: {e}") from e
    found.pop("client", None)  # what people's commands read: where the service is
    for name in found:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SettingsError(f"{file} has {name!r}, which is no setting{hint}")
    return found
