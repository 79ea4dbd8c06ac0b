"""The peer that anybody would write first: paho, json, and an INSERT with its commit for every message."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime, timedelta

import paho.mqtt.client as paho
import psycopg
from paho.mqtt.enums import CallbackAPIVersion


def main(url: str, port: int, batch: int) -> None:
    connection = psycopg.connect(url)
    waiting: list[tuple[object, ...]] = []
    insert = "insert into peer_naive values (%s, %s, %s, %s) on conflict do nothing"
    last = time.monotonic()

    def flush() -> None:
        nonlocal last
        with connection.cursor() as cursor:
            cursor.executemany(insert, waiting)
        connection.commit()
        waiting.clear()
        last = time.monotonic()

    def heard(_client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        for one in json.loads(message.payload)["measurements"]:
            waiting.extend((one["measured_at"], one["device"], metric, value) for metric, value in one.get("values", {}).items())
            for metric, series in one.get("samples", {}).items():
                first, every = datetime.fromisoformat(one["measured_at"]), timedelta(milliseconds=series["every_ms"])
                waiting.extend((first + n * every, one["device"], metric, value) for n, value in enumerate(series["values"]))
        if batch == 1 or len(waiting) >= batch:
            flush()

    client = paho.Client(CallbackAPIVersion.VERSION2, "naive", clean_session=True)
    client.on_message = heard
    client.connect("127.0.0.1", port)
    client.subscribe("yz/1/+/+/up/readings", qos=1)
    while True:
        client.loop(0.05)
        if waiting and time.monotonic() - last > 0.05:
            flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
