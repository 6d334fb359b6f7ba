"""A real S3 server on this machine: OpenStack Swift with its S3 API, of one node, as it comes from PyPI.

It looks at what S3 looks at: signatures, until when they hold, and that the bytes that came are those that
were signed for. (moto, which answers for S3 in many tests, takes everything; rclone's server takes other
bytes.)
"""

from __future__ import annotations

import getpass
import importlib.util
import subprocess
import sys
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.store import S3Store
from processes import Process, free_port, until

ACCESS_KEY, SECRET_KEY = "test:tester", "testing-secret-0d5f"  # a user of Swift's tempauth
BUCKET = "weights"
RINGS = """
import sys
from pathlib import Path
from swift.common.ring import RingBuilder
home, ports = Path(sys.argv[1]), sys.argv[2:]
for kind, port in zip(("account", "container", "object"), ports, strict=True):
    ring = RingBuilder(2, 1, 0)
    place = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "disk", "weight": 1}
    ring.add_dev(place)
    ring.rebalance(seed=0)
    ring.get_ring().save(str(home / f"{kind}.ring.gz"))
"""
COMMON = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
mount_check = false
fallocate_reserve = 0
devices = {home}
swift_dir = {home}
log_address = /dev/null
user = {user}
"""
STORAGE = """\
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
PROXY = """\
[pipeline:main]
pipeline = catch_errors cache listing_formats s3api tempauth bulk slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
"""


def is_missing() -> bool:
    return importlib.util.find_spec("swift") is None


class Swift:
    """Up once it is made. `environ` has the credentials."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "disk").mkdir()
        (home / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = of-the-tests\n")
        self.port, *storage = [free_port() for _ in range(4)]
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", RINGS, str(home), *map(str, storage)], check=True
        )
        self.processes = [
            self._start(kind, port, STORAGE)
            for kind, port in zip(("account", "container", "object"), storage, strict=True)
        ]
        self.processes.append(self._start("proxy", self.port, PROXY))
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        until(self._makes_bucket, saw=lambda: "".join(p.said for p in self.processes))

    def _start(self, kind: str, port: int, rest: str) -> Process:
        conf = self.home / f"{kind}.conf"
        told = (COMMON + rest).format(
            kind=kind, port=port, home=self.home, user=getpass.getuser(), secret=SECRET_KEY
        )
        conf.write_text(told)
        program = str(Path(sys.executable).with_name(f"swift-{kind}-server"))
        return Process([program, str(conf)], environ={"PYTHONWARNINGS": "ignore"})

    def address(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}"

    def service(self, prefix: str) -> dict[str, str]:
        """What a service is told by its environment, to keep its bytes here."""
        named = {"TUNESMITH_BLOB_STORE": self.address(prefix), "TUNESMITH_S3_ENDPOINT": self.url}
        return self.environ | named

    def store(self, prefix: str = "") -> S3Store:
        """The bucket as its owner sees it."""
        return S3Store(
            BUCKET, prefix=prefix or None, region="us-east-1",
            config={"endpoint": self.url, "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY},
            client_options={"allow_http": True},
        )  # fmt: skip

    def _makes_bucket(self) -> bool:
        client = boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1", config=Config(retries={"max_attempts": 0}),
        )  # fmt: skip
        try:
            client.create_bucket(Bucket=BUCKET)
        except client.exceptions.BucketAlreadyOwnedByYou:  # an answer got lost
            return True
        except (BotoCoreError, ClientError):  # not up yet
            return False
        return True

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
