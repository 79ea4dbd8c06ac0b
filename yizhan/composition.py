"""The embedded composition: every service a process of its own, watched, restarted when it dies, stopped together.

Used by `up`, `demo`, the benchmarks and the fault tests alike, so that what is shown is what is tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from firmware_sim.town import Control, dbus_daemon
from vitals.errors import ConfigError
from vitals.settings import load
from yizhan import broker, district, kafka, postgres, town
from yizhan.compose import migrate

Progress = Callable[[str], None]
RESTART_FIRST, RESTART_LONGEST = 0.1, 5.0
STABLE_AFTER = 10.0


def free_port() -> int:
    """A loopback port nobody uses at this moment, outside the range that outgoing connections take theirs from.

    In that range, whoever reconnects to a server that is just being restarted may be given the server's own port: it is then
    connected to itself, and the server cannot come back.
    """
    while True:
        port = random.randrange(15_000, 32_000)  # noqa: S311
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class Service:
    """One child process. It is restarted when it dies, with back-off, until `stop`."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    signum: signal.Signals = signal.SIGTERM
    restarts: int = -1
    process: asyncio.subprocess.Process | None = None
    started: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    _stopping: bool = False

    async def start(self) -> None:
        self._task = asyncio.create_task(self._watch())
        await self.started.wait()

    async def _watch(self) -> None:
        wait = RESTART_FIRST
        while not self._stopping:
            began = time.monotonic()
            with self.log.open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *self.command, env=self.environment, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
                )
            self.restarts += 1
            self.started.set()
            await self.process.wait()
            if self._stopping:
                return
            # what was killed from outside is no crash loop
            stable = time.monotonic() - began > STABLE_AFTER or self.process.returncode == -signal.SIGKILL
            wait = RESTART_FIRST if stable else min(wait * 2, RESTART_LONGEST)
            await asyncio.sleep(wait)

    def send(self, signum: signal.Signals) -> None:
        """A signal to the process group, children of the child included."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signum)

    async def stop(self, patience: float = 10.0) -> None:
        self._stopping = True
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(self.signum)
            try:
                await asyncio.wait_for(self.process.wait(), patience)
            except TimeoutError:
                self.send(signal.SIGKILL)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class Composition:
    """All services over one data directory; use `async with`. radio and broker "auto" take the best installed."""

    def __init__(
        self,
        data: Path,
        *,
        progress: Progress = lambda _line: None,
        radio: str = "auto",
        broker_kind: str = "auto",
        api_port: int = 0,
        log_level: str = "info",
        resend_after: float = 2.0,
        gateway_process: bool = True,
        through_kafka: bool = False,
        workers: int = 1,
        residents: int = 0,
    ) -> None:
        self.data = data.absolute()
        self.radio = ("bluez" if dbus_daemon() else "in-process") if radio == "auto" else radio
        self.broker_kind = broker_kind
        self.services: dict[str, Service] = {}
        self.first_start = False
        self._progress = progress
        self._log_level = log_level
        self._resend_after = resend_after
        self._with_gateway = gateway_process
        self._through_kafka, self._workers = through_kafka, workers
        self._residents = residents  # of a district around the town, at the first start
        self._run = Path(tempfile.mkdtemp(prefix="yz-"))  # unix sockets need a short path
        self.control = Control(self._run / "control.sock")
        self.ports = {"database": free_port(), "mqtt": free_port(), "api": api_port or free_port()}
        if through_kafka:
            self.ports |= {"kafka": free_port(), "controller": free_port()}
        self.url = f"http://127.0.0.1:{self.ports['api']}"
        self.database_url = ""

    @property
    def bluetooth(self) -> str:
        """Which way the gateway reaches the virtual devices."""
        return "bluez-bridge" if self.radio == "bluez" else "in-process"

    def environment(self, **settings: str | Path | int | float) -> dict[str, str]:
        """A child's environment: ours without our settings, and the ones given."""
        base = {name: value for name, value in os.environ.items() if not name.startswith("YIZHAN_")}
        common: dict[str, str | Path | int | float] = {
            "data_dir": self.data, "log_level": self._log_level, "mqtt_port": self.ports["mqtt"], "broker_kind": self.broker_kind,
            "api_port": self.ports["api"], "site": town.SITE, "gateway": town.GATEWAY, "spool": self.data / "spool.db",
            "devices": self.data / "devices.json", "radio": self.radio, "resend_after": self._resend_after,
        }  # fmt: skip
        return base | {f"YIZHAN_{name.upper()}": str(value) for name, value in (common | settings).items()}

    def _file(self, name: str) -> Path:
        return self.data / "secrets" / name

    async def __aenter__(self) -> Composition:
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.data / "logs").mkdir(exist_ok=True)
        await self._start_database()
        gateway_password = postgres.secret(self._file("gateway"))
        postgres.secret(self._file("worker"))
        field_key = postgres.secret(self._file("field_key"))
        self.first_start = await town.found(self.database_url, gateway_password, field_key)
        if self.first_start and self._residents:
            told = await district.settle(self.database_url, field_key, load({}).zone, self._residents)
            self._progress(f"区县 district          {', '.join(f'{count} {what}' for what, count in told.items())}")
        if not (self.data / "devices.json").exists():  # pairing extends it
            town.write_devices(self.data / "devices.json")
        backend: dict[str, str | Path] = {
            "database_url_file": self._file("database_url"),
            "mqtt_user": "worker",
            "mqtt_password_file": self._file("worker"),
            "field_key_file": self._file("field_key"),
        }
        await self._start_python("broker", self.environment(**backend, backend_users="ingest-1,ingest-2"), "broker")
        kind = broker.choose(load({"YIZHAN_BROKER_KIND": self.broker_kind}))
        await self._until(self._port_open("mqtt"), "broker")
        self._progress(f"消息代理 broker        {kind}, 127.0.0.1:{self.ports['mqtt']}")
        if self._through_kafka:
            await self._start_kafka(backend)
        if self._with_gateway:
            await self._start_edge()
        await self._start_workers(backend)
        self._progress("处理进程 worker        readings, rules, cases in one transaction")
        await self._start_python("notifier", self.environment(**backend), "notifier")
        await self._until(self._said("notifier", "notifier started"), "notifier")
        self._progress("通知进程 notifier      escalation and notices")
        behind = {name: value for name, value in backend.items() if name != "database_url_file"}  # no HTTP process has the owner's role
        await self._start_python("api", self.environment(**behind, api_database_url_file=self._file("api_database_url")), "api")
        await self._until(self._api_answers, "api")
        self._progress(f"接口与控制台 api       {self.url}")

    async def _start_database(self) -> None:
        superuser, application = postgres.secret(self._file("postgres")), postgres.secret(self._file("application"))
        await postgres.initialise(self.data / "postgres", self._file("postgres"))
        command = postgres.server_command(self.data / "postgres", self.ports["database"])
        await self._start_service(Service("database", command, dict(os.environ), self.data / "logs" / "database.log", signal.SIGINT))
        api = postgres.secret(self._file("api_role"))
        self.database_url, behind = await postgres.prepare(self.ports["database"], superuser, application, api)
        for name, url in (("database_url", self.database_url), ("api_database_url", behind)):
            path = self._file(name)
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(url)
        applied = await migrate(self.database_url)
        self._progress(f"数据库 database        PostgreSQL, 127.0.0.1:{self.ports['database']}, {len(applied)} migrations applied")

    async def _start_kafka(self, backend: dict[str, str | Path]) -> None:
        """Kafka and a bridge: from here on the worker reads from there."""
        command = kafka.prepare(self.data / "kafka", self.ports["kafka"], self.ports["controller"])
        await self._start_service(Service("kafka", command, dict(os.environ), self.data / "logs" / "kafka.log"))
        await self._until(self._port_open("kafka"), "kafka")
        backend["kafka_servers"] = f"127.0.0.1:{self.ports['kafka']}"
        bridge = backend | {"mqtt_user": "ingest-1"}
        await self._start_python("ingest", self.environment(**bridge), "ingest")
        await self._until(self._said("ingest", "bridge started"), "ingest")
        self._progress(f"日志流 kafka           127.0.0.1:{self.ports['kafka']}, one bridge")

    async def _start_workers(self, backend: dict[str, str | Path]) -> None:
        ready = "partitions assigned" if self._through_kafka else "connected to the broker"
        for number in range(1, self._workers + 1):
            name = "worker" if number == 1 else f"worker-{number}"
            await self._start_python(name, self.environment(**backend, worker_name=name), "worker")
        for name in [name for name in self.services if name.startswith("worker")]:
            await self._until(self._said(name, ready), name)

    async def _start_edge(self) -> None:
        extra: dict[str, str | Path] = {"mqtt_user": town.GATEWAY, "mqtt_password_file": self._file("gateway")}
        environment = self.environment(**extra)
        sockets = ["--control", str(self._run / "control.sock")]
        if self.radio == "bluez":
            bus = self._run / "bus.sock"
            arguments = ["sim", "serve", "--devices", str(self.data / "devices.json"), "--bus", str(bus), *sockets]
            await self._start_python("simulator", environment, *arguments)
            await self._until(self._control_open, "simulator")
            environment["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={bus}"
            await self._start_python("gateway", environment, "gateway")
        else:
            await self._start_python("gateway", environment, "gateway", *sockets)
            await self._until(self._control_open, "gateway")
        await self._until(self._said("gateway", "scanning"), "gateway")
        self._progress(f"虚拟设备 devices       {len(town.virtual_devices())} virtual cuffs, {self.bluetooth}")
        self._progress(f"网关 gateway           {town.GATEWAY}, spool at {self.data / 'spool.db'}")

    async def _start_python(self, name: str, environment: dict[str, str], *arguments: str) -> None:
        # whoever is killed without a chance to stop its children takes them with it
        dying = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        command = [*dying, sys.executable, "-m", "yizhan", *arguments]
        await self._start_service(Service(name, command, environment, self.data / "logs" / f"{name}.log"))

    async def _start_service(self, service: Service) -> None:
        self.services[service.name] = service
        service.log.unlink(missing_ok=True)  # one log a start; readiness is read from it
        await service.start()

    def _port_open(self, name: str) -> Callable[[], object]:
        async def look() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.ports[name])
            except OSError:
                return False
            writer.close()
            return True

        return look

    def _said(self, name: str, message: str) -> Callable[[], object]:
        async def look() -> bool:
            return f'"message": "{message}"' in (self.data / "logs" / f"{name}.log").read_text(errors="replace")

        return look

    async def _control_open(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool((await self.control.ask(do="list"))["devices"])
        return False

    async def _api_answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{self.url}/v1/health")).status_code == 200
        return False

    async def _until(self, ready: Callable[[], object], name: str, patience: float = 60.0) -> None:
        end = time.monotonic() + patience
        while not await ready():  # type: ignore[misc]
            if time.monotonic() > end or self.services[name].restarts > 5:
                tail = (self.data / "logs" / f"{name}.log").read_text(errors="replace").strip().splitlines()[-3:]
                raise ConfigError([f"{name} did not start; its log ends with:", *tail])
            await asyncio.sleep(0.03)

    async def stop(self) -> None:
        """Stop everything, the last started first."""
        for service in reversed(list(self.services.values())):
            await service.stop()
        for path in self._run.iterdir():
            path.unlink()
        self._run.rmdir()
