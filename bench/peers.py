"""What somebody would build instead of ours, each against the same broker and the same database program.

None of them knows a resident, a rule, a duplicate or a receipt; three of them lose messages when they are killed. They are
given what their documentation recommends for speed. Telegraf and Node-RED are used where they are installed in the cache
(`bench/install_peers.sh`); where they are not, the row says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from vitals.floor import database
from yizhan.kafka import cache

TOPIC = "yz/1/+/+/up/readings"
TABLE = (
    "create table {name} (at timestamptz not null, device text not null, metric text not null, value float8 not null);"
    "create unique index on {name} (at, device, metric)"
)


def tools() -> Path:
    return cache() / "peers"


@asynccontextmanager
async def _running(*command: str, log: Path, environment: dict[str, str] | None = None) -> AsyncIterator[None]:
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=file, stderr=file, env={**os.environ, **(environment or {})}, start_new_session=True
        )
    try:
        await asyncio.sleep(2.0)  # subscribed by then
        if process.returncode is not None:
            raise RuntimeError(f"{command[0]} ended: {log.read_text()[-400:]}")
        yield
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
        await process.wait()


async def _table(url: str, name: str, definition: str = TABLE) -> None:
    async with await database.connect(url, autocommit=True) as connection:
        await connection.execute(f"drop table if exists {name}".encode())
        for statement in definition.format(name=name).split(";"):
            await connection.execute(statement.encode())


@asynccontextmanager
async def naive(url: str, port: int, folder: Path, batch: int = 1) -> AsyncIterator[str]:
    """paho and an INSERT with its commit for each message (batch 1), or executemany for every `batch`."""
    await _table(url, "peer_naive")
    async with _running(sys.executable, "-m", "bench.naive", url, str(port), str(batch), log=folder / "naive.log"):
        yield "select count(*) from peer_naive"


@asynccontextmanager
async def pipe(url: str, port: int, folder: Path) -> AsyncIterator[str]:
    """mosquitto_sub | psql COPY into a column of jsonb, no index: the strongest simple peer. Counts its readings."""
    if not shutil.which("mosquitto_sub") or not shutil.which("psql"):
        raise FileNotFoundError("mosquitto_sub or psql is not installed")
    await _table(url, "peer_pipe", "create table {name} (body jsonb)")
    # psql commits only at the end of its input, so the pipe is cut every 200 lines
    script = (
        f"mosquitto_sub -p {port} -q 1 -t '{TOPIC}' | split --unbuffered -l 200 --filter="
        f'\'psql -q "{url}" -c "copy peer_pipe from stdin"\' -'
    )
    async with _running("bash", "-c", script, log=folder / "pipe.log"):
        yield (
            "select coalesce(sum((select count(*) from jsonb_array_elements(body->'measurements') m, jsonb_object_keys(m->'values'))"
            " + (select coalesce(sum(jsonb_array_length(m#>'{samples,heart_rate,values}')), 0)"
            " from jsonb_array_elements(body->'measurements') m)), 0)::bigint from peer_pipe"
        )


@asynccontextmanager
async def telegraf(url: str, port: int, folder: Path) -> AsyncIterator[str]:
    """mqtt_consumer (QoS 1, a persistent session that nobody had before) → postgresql, through json_v2.

    Samples of a series become rows with the time of the first: json_v2 cannot reckon times.
    """
    program = tools() / "telegraf"
    if not program.exists():
        raise FileNotFoundError("telegraf is not installed (bench/install_peers.sh; Go needed)")
    columns = ", ".join(f"{name} float8" for name in ("systolic", "diastolic", "pulse", "heart_rate", "glucose"))
    await _table(url, "peer_telegraf", f"create table {{name}} (time timestamp, device text, {columns})")
    parts = urlsplit(url)
    where = f"host={parts.hostname} port={parts.port} user={parts.username} password={parts.password} dbname={parts.path[1:]}"
    configuration = folder / "telegraf.conf"
    configuration.write_text(f"""
[agent]
interval = "1s"
flush_interval = "100ms"
metric_batch_size = 5000
metric_buffer_limit = 200000
omit_hostname = true
[[inputs.mqtt_consumer]]
servers = ["tcp://127.0.0.1:{port}"]
topics = ["{TOPIC}"]
qos = 1
persistent_session = true
client_id = "telegraf-{secrets.token_hex(4)}"
max_undelivered_messages = 20000
topic_tag = ""
data_format = "json_v2"
[[inputs.mqtt_consumer.json_v2]]
measurement_name = "peer_telegraf"
[[inputs.mqtt_consumer.json_v2.object]]
path = "measurements"
timestamp_key = "measured_at"
timestamp_format = "2006-01-02T15:04:05.999Z07:00"
included_keys = ["device", "values_systolic", "values_diastolic", "values_pulse", "values_heart_rate", "values_glucose",
  "samples_heart_rate_values"]
tags = ["device"]
[inputs.mqtt_consumer.json_v2.object.renames]
values_systolic = "systolic"
values_diastolic = "diastolic"
values_pulse = "pulse"
values_heart_rate = "heart_rate"
samples_heart_rate_values = "heart_rate"
values_glucose = "glucose"
[[outputs.postgresql]]
connection = "{where} sslmode=disable pool_max_conns=2"
tags_as_foreign_keys = false
create_templates = []
add_column_templates = []
""")
    async with _running(str(program), "--config", str(configuration), log=folder / "telegraf.log"):
        yield ("select coalesce(sum(num_nonnulls(systolic, diastolic, pulse, heart_rate, glucose)), 0)::bigint from peer_telegraf")


@asynccontextmanager
async def node_red(url: str, port: int, folder: Path) -> AsyncIterator[str]:
    """mqtt in → function that gathers 1,000 readings or 50 ms → one INSERT … UNNEST through `pg`."""
    home = tools() / "nodered"
    program = home / "node_modules" / "node-red" / "red.js"
    if not program.exists():
        raise FileNotFoundError("node-red is not installed (bench/install_peers.sh; npm needed)")
    await _table(url, "peer_node_red")
    user = folder / "nodered"
    user.mkdir(exist_ok=True)
    function = (
        "const m = JSON.parse(msg.payload).measurements; const rows = context.rows = context.rows || [];"
        "for (const one of m) { for (const k of Object.keys(one.values || {})) rows.push([one.measured_at, one.device, k, one.values[k]]);"
        " const first = Date.parse(one.measured_at); for (const [k, s] of Object.entries(one.samples || {}))"
        " s.values.forEach((v, i) => rows.push([new Date(first + i * s.every_ms).toISOString(), one.device, k, v])); }"
        "const flush = () => { const all = context.rows; context.rows = []; clearTimeout(context.timer); context.timer = null;"
        " if (all.length) global.get('pool').query("
        "'insert into peer_node_red select * from unnest($1::timestamptz[],$2::text[],$3::text[],$4::float8[]) on conflict do nothing',"
        " [0,1,2,3].map(i => all.map(r => r[i]))).catch(e => node.error(e.message)); };"
        "if (rows.length >= 1000) flush(); else if (!context.timer) context.timer = setTimeout(flush, 50); return null;"
    )
    flows = [
        {"id": "t", "type": "tab", "label": "bench"},
        {"id": "b", "type": "mqtt-broker", "broker": "127.0.0.1", "port": str(port), "clientid": "nodered", "cleansession": True},
        {"id": "i", "type": "mqtt in", "z": "t", "topic": TOPIC, "qos": "1", "datatype": "utf8", "broker": "b", "wires": [["f"]]},
        {"id": "f", "type": "function", "z": "t", "func": function, "outputs": 1, "wires": [[]]},
    ]  # fmt: skip
    (user / "flows.json").write_text(json.dumps(flows))
    (user / "settings.js").write_text(
        f"const {{Pool}} = require('{home}/node_modules/pg');"
        f"module.exports = {{flowFile: 'flows.json', httpAdminRoot: false, httpNodeRoot: false, logging: {{console: {{level: 'error'}}}},"
        f" functionGlobalContext: {{pool: new Pool({{connectionString: '{url}', max: 2}})}}}};"
    )
    command = ("node", str(program), "-u", str(user), "-s", str(user / "settings.js"), str(user / "flows.json"))
    async with _running(*command, log=folder / "node-red.log", environment={"PORT": "0"}):
        await asyncio.sleep(4)
        yield "select count(*) from peer_node_red"
