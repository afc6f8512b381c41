"""A web server for the examples: says which instance answers, and what the store (if any, $STORE) has as greeting."""

import http.server
import os
import signal
import socket
import sys
import urllib.request

STORE = os.environ.get("STORE")
PORT = int(os.environ.get("PORT", "80"))


def greeting() -> str:
    if not STORE:
        return "hello"
    try:
        with urllib.request.urlopen(f"{STORE}/greeting", timeout=2) as answer:
            return str(answer.read().decode())
    except OSError as error:
        return f"(the store does not answer: {error})"


class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        text = "ok" if self.path == "/health" else f"{greeting()}, said by {socket.gethostname()}"
        body = f"{text}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        if self.path != "/health":
            print(self.command, self.path, int(str(code)) if str(code).isdigit() else code, flush=True)


# As process 1 of its container a program gets no signal that it does not ask for (pid_namespaces(7)).
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(f"{socket.gethostname()}: listening on port {PORT}", flush=True)
http.server.ThreadingHTTPServer(("", PORT), Web).serve_forever()
