"""The embedded composition as its users meet it: the demo, the kiosk's screen, revocation, a refused topic, `check`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import missing
from vitals.errors import ConfigError
from yizhan import check, town
from yizhan.broker import mosquitto_program
from yizhan.composition import Composition, free_port

pytestmark = pytest.mark.services

HOPS = ["device_indication", "spool", "publish", "commit", "pending_case", "event_stream", "confirmed", "acknowledged"]


@pytest.mark.parametrize(("radio", "broker"), [("bluez", "mosquitto"), ("in-process", "amqtt")])
def test_the_demo_walks_every_hop(radio: str, broker: str) -> None:
    if radio == "bluez" and not Path("/usr/bin/dbus-daemon").exists():
        missing("bluez", "dbus-daemon is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "yizhan", "demo", "--json", "--radio", radio, "--broker", broker],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["ok"] is True
    assert list(result["hops_ms"]) == HOPS
    assert result["case"]["state"] == "acknowledged"
    assert result["case"]["alert"] == {"family": "bp_danger", "state": "firing", "why": "confirmed"}
    assert result["bluetooth"] == {"bluez": "bluez-bridge", "in-process": "in-process"}[radio]
    assert result["readings"][0]["values"]["systolic"] == 186


class Api:
    """A client of a running composition."""

    def __init__(self, composition: Composition, token: str) -> None:
        self._options: dict[str, Any] = {"base_url": composition.url, "headers": {"Authorization": f"Bearer {token}"}}

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        async with httpx.AsyncClient(**self._options) as client:
            answer = await client.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    async def events(self, path: str) -> AsyncGenerator[tuple[str, Any], None]:
        timeout = httpx.Timeout(5, read=30)
        async with httpx.AsyncClient(**self._options, timeout=timeout) as client, client.stream("GET", path) as answer:
            name = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))


async def test_a_person_at_the_kiosk_is_told_what_to_do_next(tmp_path: Path) -> None:
    async with Composition(tmp_path / "data") as composition:
        station = Api(composition, await town.make_login(composition.database_url, "station", town.GATEWAY))
        admin = Api(composition, await town.make_login(composition.database_url, "admin", None))
        doctor = Api(composition, await town.make_login(composition.database_url, "doctor", town.DOCTOR))
        resident = (await admin.ask("GET", "/v1/residents"))[1]["resident"]
        checkin = (await station.ask("POST", "/v1/checkins", {"resident": resident}))["checkin"]
        log = composition.data / "logs" / "worker.log"
        await asyncio.sleep(1.2)  # a cuff dates its values to the second: sooner, it would say "before the check-in"
        taken = await composition.control.ask(do="measure", device=town.KIOSK_CUFF, systolic=186, diastolic=112, pulse=88)
        indicated = (await composition.control.ask(do="indicated", device=town.KIOSK_CUFF, frame=taken["frame"]))["at"]
        async with contextlib.aclosing(station.events(f"/v1/checkins/{checkin}/events")) as events:
            name, advice = await asyncio.wait_for(anext(events), 20)
            seen = time.time()
        assert (name, advice["next"], advice["checkin"]) == ("advice", "rest_and_repeat", checkin)
        assert seen - indicated < 1.0, "within a second of the measurement"
        queue = await doctor.ask("GET", "/v1/queue")
        assert [(case["resident"], case["alerts"][0]["state"]) for case in queue] == [(resident, "pending")]
        await station.ask("POST", f"/v1/checkins/{checkin}/symptoms", {"answers": {"chest_tightness": "yes"}})
        for _ in range(100):
            queue = await doctor.ask("GET", "/v1/queue")
            if queue[0]["severity"] == "P1":
                break
            await asyncio.sleep(0.05)
        assert (queue[0]["severity"], queue[0]["alerts"][0]["state"]) == ("P1", "firing")
        assert all(person[0] not in log.read_text() for person in town.PEOPLE), "no name in a log"


@pytest.mark.parametrize("broker_kind", ["mosquitto", "amqtt"])
async def test_a_revoked_gateway_is_out_within_a_minute(tmp_path: Path, broker_kind: str) -> None:
    if broker_kind == "mosquitto" and not mosquitto_program():
        missing("mosquitto", "not installed")
    async with Composition(tmp_path / "data", broker_kind=broker_kind, radio="in-process") as composition:
        admin = Api(composition, await town.make_login(composition.database_url, "admin", None))
        log = composition.data / "logs" / "gateway.log"
        await admin.ask("POST", f"/v1/gateways/{town.GATEWAY}/revoke")
        began = time.monotonic()
        while '"lost the broker"' not in log.read_text() or '"broker refused the connection"' not in log.read_text():
            assert time.monotonic() - began < 60
            await asyncio.sleep(0.1)
        await composition.control.ask(do="measure", device=town.PEOPLE[0][3], systolic=120, diastolic=80, pulse=70)
        await asyncio.sleep(1)
        assert '"connected to the broker"' not in log.read_text().split('"lost the broker"')[-1]


async def test_readings_flow_although_the_broker_refuses_the_status_topic(tmp_path: Path) -> None:
    if not mosquitto_program():
        missing("mosquitto", "not installed")
    async with Composition(tmp_path / "data", broker_kind="mosquitto", radio="in-process") as composition:
        rights = composition.data / "broker" / "rights"
        rights.write_text(rights.read_text().replace(f"topic write yz/1/{town.SITE}/{town.GATEWAY}/up/status\n", ""))
        composition.services["broker"].send(signal.SIGHUP)
        pid = composition.services["broker"].process
        assert pid is not None
        await asyncio.sleep(0.5)
        composition.services["gateway"].send(signal.SIGKILL)  # a new life announces itself, and is thrown out for it
        await asyncio.sleep(2)
        doctor = Api(composition, await town.make_login(composition.database_url, "doctor", town.DOCTOR))
        for _ in range(200):
            try:
                await composition.control.ask(do="measure", device=town.PEOPLE[0][3], systolic=186, diastolic=112, pulse=70)
                break
            except OSError:
                await asyncio.sleep(0.1)
        for _ in range(300):
            if await doctor.ask("GET", "/v1/queue"):
                return
            await asyncio.sleep(0.1)
        pytest.fail("the reading never arrived")


def test_up_prints_logins_once_reuses_its_data_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "yizhan", "up", "--data", str(tmp_path / "data"), "--port", str(free_port())]

    def start_and_stop() -> str:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert child.stdout is not None
        lines = []
        for line in child.stdout:
            lines.append(line)
            if "186/112" in line:
                break
        child.send_signal(signal.SIGINT)
        rest, _ = child.communicate(timeout=60)
        assert child.returncode == 0, "".join(lines) + rest
        return "".join(lines) + rest

    first, second = start_and_stop(), start_and_stop()
    assert first.count("yz_") == 3, "a token for each of the three administrators"
    for person, *_ in town.PERSONNEL:
        assert re.search(rf"^{person} +[0-9a-f]{{8}}-[0-9a-f]{{8}} ", first, re.M), f"a password for {person}"
        assert not re.search(rf"^{person} ", second, re.M)
    assert "yz_" not in second
    assert "0 migrations applied" in second
    secrets = list((tmp_path / "data" / "secrets").iterdir())
    assert secrets
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in secrets)
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "data")], capture_output=True, text=True, check=False)
    assert left.stdout == "", "nothing of it runs any more"


async def test_a_healthy_deployment_has_nothing_to_report(tmp_path: Path) -> None:
    async with Composition(tmp_path / "data", radio="in-process") as composition:
        environment = composition.environment(
            database_url_file=composition.data / "secrets" / "database_url", mqtt_user="worker",
            mqtt_password_file=composition.data / "secrets" / "worker", devices=composition.data / "devices.json",
        )  # fmt: skip
        assert await check.run(environment) == []


def test_check_lists_everything_that_is_wrong_in_one_go(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "3", "-subj", "/CN=x"],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o644)
    devices = tmp_path / "devices.json"
    devices.write_text('[{"device": "a b", "address": "x", "kind": "seance", "setting": "moon"}]')
    broken = {
        "API_HOST": "0.0.0.0",
        "BROKER_BIND": "0.0.0.0",
        "BROKER_CERTIFICATE": str(certificate),
        "BROKER_KEY": str(key),
        "MQTT_HOST": "192.0.2.1",
        "MQTT_PASSWORD": "changeme",
        "MQTT_PORT": "0",
        "DATABASE_URL": "postgresql://postgres:postgres@127.0.0.1:1/x",
        "BATCH_LIMIT": "5000",
        "LOG_LEVEL": "debug",
        "ZONE": "CST",
        "DEVICES": str(devices),
        "NO_SUCH_THING": "1",
        "API_KEY": "/nowhere",
    }
    environment = {"PATH": os.environ["PATH"]} | {f"YIZHAN_{name}": value for name, value in broken.items()}
    # 192.0.2.1 answers nobody; what is asked there must not take long either
    environment["YIZHAN_MQTT_HOST"] = "unknown.invalid"
    done = subprocess.run(
        [sys.executable, "-m", "yizhan", "check"], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.returncode == 1
    for words in (
        "YIZHAN_API_HOST: the API would listen outside loopback without TLS",
        "YIZHAN_API_CERTIFICATE: certificate and key belong together",
        "YIZHAN_BROKER_KEY: can be read by others",
        "YIZHAN_BROKER_CERTIFICATE: expires in",
        "YIZHAN_MQTT_HOST: readings and passwords would cross the network without TLS",
        "YIZHAN_MQTT_PASSWORD: a well-known default",
        "YIZHAN_MQTT_PORT:",
        "YIZHAN_DATABASE_URL (its password): a well-known default",
        "YIZHAN_BATCH_LIMIT: larger than YIZHAN_MQTT_WINDOW",
        "YIZHAN_LOG_LEVEL: debug",
        "YIZHAN_ZONE: not an IANA zone",
        "YIZHAN_NO_SUCH_THING: no such setting",
        "device must be a plain name",
        "kind must be one of",
        "database: cannot connect",
        "broker: nothing answers",
    ):
        assert words in done.stdout, words
    assert "changeme" not in done.stdout


async def test_a_service_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Composition, "_until", _impatient(Composition._until))
    with pytest.raises(ConfigError) as error:
        async with Composition(tmp_path / "data", radio="carrier-pigeon"):
            pass
    assert any("YIZHAN_RADIO" in problem for problem in error.value.problems)


def _impatient(real: Any) -> Any:
    async def until(self: Composition, ready: Any, name: str, patience: float = 8.0) -> None:
        await real(self, ready, name, patience)

    return until


async def test_a_worker_without_a_database_stops_when_told_to(tmp_path: Path) -> None:
    async with Composition(tmp_path / "data", radio="in-process", broker_kind="amqtt") as composition:
        composition.services["database"]._stopping = True
        composition.services["database"].send(signal.SIGKILL)
        await asyncio.sleep(1)
        worker = composition.services["worker"].process
        assert worker is not None
        composition.services["worker"]._stopping = True
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(worker.wait(), 15) == 0
