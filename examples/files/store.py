"""A key-value store over HTTP for the examples: PUT and GET /NAME, kept as files in $DATA; GET /health."""

import http.server
import os
import pathlib
import re
import signal
import sys

DATA = pathlib.Path(os.environ["DATA"])


class Store(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/health":
            return self.answer(200, b"ok\n")
        place = self.place()
        if place is None or not place.exists():
            return self.answer(404, b"no such key\n")
        return self.answer(200, place.read_bytes())

    def do_PUT(self) -> None:
        place = self.place()
        if place is None:
            return self.answer(400, b"a key is letters and digits\n")
        part = place.with_suffix(".part")
        part.write_bytes(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        part.replace(place)
        print(f"stored {place.name}", flush=True)
        return self.answer(200, b"stored\n")

    def place(self) -> pathlib.Path | None:
        name = self.path.removeprefix("/")
        return DATA / name if re.fullmatch(r"[a-z0-9]+", name) else None

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        if self.path != "/health":
            print(self.command, self.path, int(str(code)) if str(code).isdigit() else code, flush=True)


# As process 1 of its container a program gets no signal that it does not ask for (pid_namespaces(7)).
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("store: listening on port 6000", flush=True)
http.server.ThreadingHTTPServer(("", 6000), Store).serve_forever()
