"""The seeded server behind a real nginx, below a path of a host that it shares with others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from processes import Process, free_port
from ui.conftest import Dashboard

NGINX = Path("/usr/sbin/nginx")
MACHINES = Path(__file__).parents[2] / "docs" / "machines.md"
PREFIX = "/lab/tunesmith"

CONFIG = """
daemon off;
master_process off;
pid {home}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  server {{
    listen 127.0.0.1:{front};
    {block}
  }}
}}
"""


def documented_block(port: int) -> str:
    """What docs/machines.md tells people to write, for a service on this port."""
    (block,) = re.findall(r"```nginx\n(.*?)```", MACHINES.read_text(encoding="utf-8"), re.DOTALL)
    assert block.count("127.0.0.1:8787") == 1
    assert f"location {PREFIX}/ {{" in block
    return str(block).replace("127.0.0.1:8787", f"127.0.0.1:{port}")


class Proxied(Dashboard):
    """`url` is the proxy's, with the path."""

    def start(self) -> None:
        if not NGINX.exists():
            pytest.skip(f"no nginx at {NGINX} (apt-get install nginx-light), so none stood before the server")
        front = free_port()
        self.url = f"http://127.0.0.1:{front}{PREFIX}"
        config = self.home / "nginx.conf"
        config.write_text(CONFIG.format(home=self.home, front=front, block=documented_block(self.port)))
        self.nginx = Process([str(NGINX), "-p", str(self.home), "-e", "stderr", "-c", str(config)])
        super().start()

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--public-url", self.url)
