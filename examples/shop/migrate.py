"""The tables of the shop. Runs as often as one likes."""

from pathlib import Path

import psycopg2

password = Path("/run/secrets/db-password").read_text().strip()
with psycopg2.connect(host="db", dbname="shop", user="postgres", password=password) as database:
    with database.cursor() as cursor:
        cursor.execute(
            "create table if not exists orders "
            "(number serial primary key, item text not null, at timestamptz not null default now())"
        )
print("migrated: table orders")
