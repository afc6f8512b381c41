"""Health as users ask for it: what is unhealthy is restarted, what follows a restart follows, what probes see is inside."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import Stage

pytestmark = pytest.mark.root

# Its first process answers 500, later ones 200; the root is kept by a restart. It listens on 127.0.0.1 alone.
SERVER = """
import http.server, os, pathlib
ran = pathlib.Path("/ran")
status = 200 if ran.exists() else 500
ran.touch()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ok = self.headers["x-token"] == "open" and self.path == "/healthz?full"
        self.send_response(status if ok else 404)
        self.end_headers()
        self.wfile.write(b"all is well")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""

STACK = f"""\
stack: sick
rootfs: {{base: host}}
containers:
  web:
    rootfs: base
    command: [/usr/bin/python3, -c, {json.dumps(SERVER)}]
    networks: []
    stop: {{grace: 0s}}
    health:
      http: {{port: 8000, path: "/healthz?full", headers: {{x-token: open}}, status: 200, body: is well}}
      from: inside
      interval: 200ms
      retries: 2
      on_unhealthy: restart
  follower:
    rootfs: base
    command: [sleep, infinity]
    networks: []
    stop: {{grace: 0s}}
    depends_on: {{web: {{until: healthy, on_restart: restart}}}}
"""


def test_what_is_unhealthy_is_restarted_and_who_depends_on_it_waits_and_follows(stage: Stage) -> None:
    name = stage.write("sick.yaml", STACK)
    stage.run("apply", "-f", name, "--timeout", "60s")
    rows = stage.ps()
    web, follower = rows["container/web-1/web"], rows["container/follower-1/follower"]
    assert (web["health"], web["restarts"], follower["restarts"]) == ("healthy", 1, 0)
    (found,) = json.loads(stage.run("inspect", "web", "--output", "json").out)["incarnations"]
    (end,) = found["exits"]
    assert end["stopped"] and end["exit"] == "is unhealthy: HTTP/1.0 500 Internal Server Error, wanted 200"
    stage.edit(name, "interval: 200ms", "interval: 100ms")
    stage.run("apply", "-f", name)
    assert stage.ps()["container/web-1/web"]["pid"] == web["pid"]
    stage.edit(name, "command: [/usr/bin/python3, -c", "command: [/usr/bin/python3, -B, -c")
    planned = stage.run("plan", "-f", name)
    assert "container/web-1/web gets a new process" in planned.out
    stage.run("apply", "-f", name, "--timeout", "60s")
    rows = stage.ps()
    assert rows["container/web-1/web"]["pid"] != web["pid"]
    assert rows["container/follower-1/follower"]["restarts"] == 1
    stage.run("plan", "-f", name, "--check")
