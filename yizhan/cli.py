"""The `yizhan` command. Names and outputs are stable: people and checks script against them."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from vitals.errors import BadInput, ConfigError, DecodeError
from vitals.floor import process
from vitals.settings import Settings, load
from yizhan import rulebench, workbench


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="yizhan", description="The backend behind smart health stations (智慧健康驿站) and home wearables."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(name: str, words: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=words, description=words)

    for name, words in (
        ("up", "start everything on this machine, until Ctrl-C"),
        ("demo", "one dangerous reading, end to end, bounded in time"),
    ):
        command = add(name, words)
        command.add_argument("--radio", choices=("auto", "bluez", "in-process"), default="auto")
        command.add_argument("--broker", choices=("auto", "mosquitto", "amqtt"), default="auto")
        if name == "up":
            command.add_argument("--data", type=Path, default=Path(".yizhan"), help="data directory, reused by the next start")
            command.add_argument("--port", type=int, default=8080)
        else:
            command.add_argument("--json", action="store_true", help="the result as one JSON object")
    for name, words in (
        ("worker", "process: messages → database, rules, cases"), ("ingest", "process: broker → Kafka, of the distributed composition"),
        ("api", "process: HTTP API and console"), ("notifier", "process: escalation, notices, follow-up plans"),
        ("broker", "process: the MQTT broker and its credentials"), ("migrate", "apply the database's missing migrations"),
        ("check", "list everything unsafe or broken about this deployment"),
    ):  # fmt: skip
        add(name, words)
    command = add("gateway", "process: Bluetooth → MQTT")
    command.add_argument("--control", type=Path, help="control socket of the virtual devices (in-process radio only)")
    command = add("sim", "virtual Bluetooth devices")
    kinds = command.add_subparsers(dest="kind", required=True)
    serve = kinds.add_parser("serve", help="a private D-Bus with org.bluez and the devices of a file")
    serve.add_argument("--devices", type=Path, required=True)
    serve.add_argument("--bus", type=Path, required=True, help="unix socket of the bus; point DBUS_SYSTEM_BUS_ADDRESS at it")
    serve.add_argument("--control", type=Path, required=True, help="unix socket for commands, one JSON object a line")
    device = kinds.add_parser("device", help="play one scenario of virtual devices on a private D-Bus, until Ctrl-C")
    device.add_argument("scenario", help="a shipped scenario (see `yizhan sim list`) or a YAML file")
    device.add_argument("--folder", type=Path, help="where sockets and the gateway's list of devices go; a temporary one if none is given")
    device.add_argument("--trace", type=Path, help="folder for a btsnoop trace that Wireshark opens")
    device.add_argument("--zone", default="Asia/Shanghai", help="time zone of the devices' clocks")
    kinds.add_parser("list", help="the shipped scenarios, one sentence each")
    fleet = kinds.add_parser("fleet", help="thousands of gateways at MQTT level; the same seed measures the same")
    fleet.add_argument("--gateways", type=int, default=100)
    fleet.add_argument("--residents", type=int, default=10_000)
    fleet.add_argument("--rate", type=float, default=1000.0, help="readings a second; 0: as fast as it goes")
    fleet.add_argument("--seed", type=int, default=1)
    fleet.add_argument("--readings", type=int, default=60_000, help="how many readings in all")
    fleet.add_argument("--batch", type=int, default=20, help="readings in one message")
    fleet.add_argument("--host", default="127.0.0.1")
    fleet.add_argument("--port", type=int, default=1883)
    fleet.add_argument("--user")
    fleet.add_argument("--password-file", type=Path)
    fleet.add_argument("--credentials", type=Path, help="JSON: gateway name → password")
    fleet.add_argument("--dry", action="store_true", help="make the messages, send nothing")
    fleet.add_argument("--devices", action="store_true", help="list the fleet's devices as JSON lines and end")
    command = add("gatt", "decode characteristic values")
    decode = command.add_subparsers(dest="kind", required=True).add_parser("decode")
    decode.add_argument("uuid", help="16-bit UUID such as 2A35, or a vendor profile such as xiaomi_scale_v1_adv")
    decode.add_argument("hex")
    decode.add_argument("--model", default="", help='what this model does differently, e.g. "Beurer BM85"')
    decode.add_argument("--key", default="", help="bind key of an encrypted advertisement, hex")
    decode.add_argument("--address", default="", help="sender of an encrypted advertisement, AA:BB:CC:DD:EE:FF")
    rulebench.add_commands(add("rules", "rule packs: check them, try them, see what they would raise"))
    command = add("retire", "drop measurements older than so many days, in whole chunks; what alerts cite is kept")
    command.add_argument("days", type=int)
    add("audit", "verify the log of who looked at whom; exit 1 and every place where it was touched")
    command = add("account", "make an account on the running `yizhan up`; prints its token once")
    command.add_argument("role", choices=("doctor", "admin", "security", "audit", "nurse", "supervisor", "hospital", "sentinel"))
    command.add_argument("--data", type=Path, default=Path(".yizhan"))
    workbench.add_commands(add)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        return _COMMANDS[chosen.command](chosen)
    except BadInput as error:
        print(f"{error.reason}: {error.detail}" if error.detail else error.reason, file=sys.stderr)
        return 2
    except ConfigError as error:
        for problem in error.problems:
            print(f"configuration: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `yizhan sim list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _progress(line: str) -> None:
    print(line, flush=True)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _process(body: Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]) -> int:
    settings = load()
    return process.run(lambda stop: body(settings, stop), settings.log_level)


def _up(chosen: argparse.Namespace) -> int:
    from yizhan import up

    async def body(stop: asyncio.Event) -> None:
        await up.run(_progress, stop, data=chosen.data, port=chosen.port, radio=chosen.radio, broker_kind=chosen.broker)

    return process.run(body, "warning")


def _demo(chosen: argparse.Namespace) -> int:
    from yizhan import demo

    process.log_to_stderr("warning")
    progress = _to_stderr if chosen.json else _progress
    result = asyncio.run(demo.run(progress, radio=chosen.radio, broker_kind=chosen.broker))
    if chosen.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print(result["note"])
        verdict = "ok" if result["ok"] else "FAILED"
        states = f"case {result['case']['state']}, alert {result['case']['alert']['state']}"
        print(f"{states}: {verdict} in {result['seconds']} s over {result['bluetooth']} and {result['broker']}")
    return 0 if result["ok"] else 1


def _worker(_chosen: argparse.Namespace) -> int:
    from yizhan import compose

    return _process(compose.worker)


def _ingest(_chosen: argparse.Namespace) -> int:
    from yizhan import compose

    return _process(compose.ingest)


def _api(_chosen: argparse.Namespace) -> int:
    from yizhan import compose

    return _process(compose.api)


def _notifier(_chosen: argparse.Namespace) -> int:
    from yizhan import compose

    return _process(compose.notify)


def _broker(_chosen: argparse.Namespace) -> int:
    from yizhan import broker

    return _process(broker.run)


def _gateway(chosen: argparse.Namespace) -> int:
    settings = load()
    if settings.radio == "bluez":
        # straight to the room: an edge gateway has no database driver to import
        from gateway import service

        return process.run(lambda stop: service.run(settings, stop), settings.log_level)
    from yizhan import compose

    return process.run(lambda stop: compose.gateway(settings, stop, control=chosen.control), settings.log_level)


def _sim(chosen: argparse.Namespace) -> int:
    if chosen.kind == "list":
        from firmware_sim import scenario

        for name in scenario.names():
            print(f"{name:24} {scenario.read(name).says}")
        return 0
    if chosen.kind == "fleet":
        return _fleet(chosen)
    from yizhan import simulate

    if chosen.kind == "device":
        folder = chosen.folder or Path(tempfile.mkdtemp(prefix="yz-sim-"))
        return process.run(lambda stop: simulate.play(chosen.scenario, folder, chosen.trace, chosen.zone, _progress, stop), "warning")
    return process.run(lambda stop: simulate.simulator(chosen.devices, chosen.bus, chosen.control, stop))


def _fleet(chosen: argparse.Namespace) -> int:
    from firmware_sim import fleet

    if min(chosen.gateways, chosen.residents, chosen.readings, chosen.batch) < 1 or chosen.rate < 0:
        raise ConfigError(["fleet: gateways, residents, readings and batch must be positive"])
    if chosen.devices:
        for device, kind, gateway in fleet.devices(chosen.gateways, chosen.residents, chosen.seed):
            print(json.dumps({"device": device, "kind": kind, "gateway": fleet.name(gateway), "site": fleet.site(gateway)}))
        return 0
    made = None
    if not chosen.dry:
        password = chosen.password_file.read_text().strip() if chosen.password_file else None
        credentials = json.loads(chosen.credentials.read_text()) if chosen.credentials else None
        made = fleet.Fleet(chosen.host, chosen.port, chosen.gateways, user=chosen.user, password=password, credentials=credentials)
        try:
            made.connect()
        except OSError as error:
            raise ConfigError([f"fleet: no broker at {chosen.host}:{chosen.port}: {error}"]) from None
    told = fleet.run(made, chosen.gateways, chosen.residents, chosen.rate, chosen.seed, chosen.readings, chosen.batch, _to_stderr)
    if made is not None:
        made.close()
    print(json.dumps(told))
    return 0 if told["acknowledged"] in (None, told["messages"]) else 1


def _migrate(_chosen: argparse.Namespace) -> int:
    from yizhan.compose import arrange, migrate

    conninfo = load().database()
    for name in asyncio.run(migrate(conninfo)):
        print(name)
    problems = asyncio.run(arrange(conninfo))
    for problem in problems:
        print(f"storage: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _retire(chosen: argparse.Namespace) -> int:
    from yizhan.compose import retire

    told = asyncio.run(retire(load().database(), chosen.days))
    print(f"{told['dropped']} chunks dropped, {told['kept']} measurements kept because alerts cite them")
    return 0


def _check(_chosen: argparse.Namespace) -> int:
    from yizhan import check

    problems = asyncio.run(check.run())
    for problem in problems:
        print(problem)
    if not problems:
        print("healthy")
    return 1 if problems else 0


def _gatt(chosen: argparse.Namespace) -> int:
    from vitals import device_model, gatt

    model = device_model.named(chosen.model)
    if chosen.model and model is None:
        print(f"no row for the model {chosen.model!r}: decoded as the profile says", file=sys.stderr)
    try:
        try:
            data, key = bytes.fromhex(chosen.hex), bytes.fromhex(chosen.key)
        except ValueError:
            raise DecodeError("not_hex") from None
        quirks = model.quirks if model is not None else frozenset()
        print(json.dumps(gatt.decode_json(chosen.uuid, data, quirks, key or None, chosen.address), ensure_ascii=False))
    except DecodeError as error:
        print(f"{error.reason}: {error.detail}" if error.detail else error.reason, file=sys.stderr)
        return 2
    return 0


def _audit(_chosen: argparse.Namespace) -> int:
    from yizhan.compose import verify_audit

    problems = asyncio.run(verify_audit(load()))
    print("\n".join(problems) or "untouched")
    return 1 if problems else 0


def _account(chosen: argparse.Namespace) -> int:
    from yizhan import town

    path = chosen.data / "secrets" / "database_url"
    if not path.exists():
        raise ConfigError([f"{chosen.data}: no running `yizhan up` keeps its data here"])
    refers_to = next((person for person, *_, login in town.PERSONNEL if login == chosen.role), None)
    print(asyncio.run(town.make_login(path.read_text(), chosen.role, refers_to)))
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "up": _up, "demo": _demo, "worker": _worker, "ingest": _ingest, "api": _api, "notifier": _notifier, "broker": _broker,
    "gateway": _gateway, "sim": _sim,
    "migrate": _migrate, "retire": _retire, "check": _check, "gatt": _gatt, "rules": rulebench.run, "account": _account, "audit": _audit,
    "quarantine": workbench.quarantine, "bench": workbench.bench, "chaos": workbench.chaos, "reconcile": workbench.reconcile,
    "indicators": workbench.figures,
}  # fmt: skip
