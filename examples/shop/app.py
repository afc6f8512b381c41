"""The shop: GET / shows a page, GET /orders the orders as JSON, POST /orders with item=NAME takes one."""

import html
import json
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import psycopg2
import redis

PASSWORD = Path("/run/secrets/db-password").read_text().strip()
NAME = socket.gethostname()
cache = redis.Redis(host="cache", socket_timeout=5)
local = threading.local()


def query(text, values=(), attempts=2):
    """All rows; once more on a new connection where the old one has ended."""
    try:
        if getattr(local, "database", None) is None:
            local.database = psycopg2.connect(
                host="db", dbname="shop", user="postgres", password=PASSWORD, connect_timeout=5
            )
        with local.database, local.database.cursor() as cursor:
            cursor.execute(text, values)
            return cursor.fetchall()
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        local.database = None
        if attempts == 1:
            raise
        return query(text, values, attempts - 1)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            self.answer(200, "ok\n")
            return
        try:
            if self.path == "/orders":
                rows = query("select number, item from orders order by number")
                self.answer(
                    200, json.dumps([{"number": number, "item": item} for number, item in rows]) + "\n"
                )
            elif self.path == "/":
                visits, (count,) = cache.incr("visits"), query("select count(*) from orders")[0]
                self.answer(200, f"{NAME}: {count} orders, {visits} visits\n")
            else:
                self.answer(404, "not here\n")
        except (psycopg2.Error, redis.RedisError) as error:
            self.answer(503, f"{NAME}: {html.escape(str(error))}\n")

    def do_POST(self):
        size = int(self.headers.get("Content-Length", 0))
        (item,) = parse_qs(self.rfile.read(size).decode()).get("item", [""])
        if self.path != "/orders" or not item:
            self.answer(400, "POST item=NAME to /orders\n")
            return
        try:
            ((number,),) = query("insert into orders (item) values (%s) returning number", (item,))
            self.answer(201, json.dumps({"number": number, "by": NAME}) + "\n")
        except psycopg2.Error as error:
            self.answer(503, f"{NAME}: {html.escape(str(error))}\n")

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format, *values):
        if self.path != "/health":
            print(format % values)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
