"""The gateway process: radio → translate → spool → uplink, and the commands that come down."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from gateway import devices as allowed
from gateway.devices import Device
from gateway.radio import Radio
from gateway.spool import LANE_NORMAL, LANE_PRIORITY, Spool
from gateway.translate import ClockReading, blood_pressure
from gateway.uplink import Uplink
from vitals import wire
from vitals.errors import BadInput, DecodeError
from vitals.floor import metrics
from vitals.floor.mqtt import Link, Will
from vitals.measurement import is_priority
from vitals.settings import Settings

log = logging.getLogger("gateway.service")


class Station:
    """What the gateway knows of the person at the station: the check-in id, never who it is."""

    def __init__(self) -> None:
        self._checkin: str | None = None
        self._until = datetime.min.replace(tzinfo=UTC)

    def obey(self, command: dict[str, Any]) -> None:
        """{"command": "checkin", "checkin", "until"} or {"command": "checkout", "checkin"}; raises BadInput."""
        checkin = command.get("checkin")
        if command.get("command") not in ("checkin", "checkout") or not isinstance(checkin, str):
            raise BadInput("unknown_command")
        if command["command"] == "checkin":
            until = wire.parse_moment(str(command.get("until")))
            if until is None:
                raise BadInput("bad_time")
            self._checkin, self._until = checkin, until
        elif checkin == self._checkin:
            self._checkin = None

    def checkin(self, now: datetime) -> str | None:
        return self._checkin if now < self._until else None


class Intake:
    """Frames become durable here, synchronously. `accept` raises only what the process must die of."""

    def __init__(self, spool: Spool, station: Station, zone: ZoneInfo) -> None:
        self._spool, self._station, self._zone = spool, station, zone
        self._count = itertools.count(1)

    def accept(self, device: Device, frame: bytes, clock: ClockReading | None, received_at: datetime) -> None:
        checkin = self._station.checkin(received_at) if device.setting in ("kiosk", "clinic") else None
        own_record = f"{self._spool.boot}-{next(self._count)}"
        try:
            measurement = blood_pressure(
                frame, device, clock=clock, zone=self._zone, received_at=received_at, own_record=own_record, checkin=checkin
            )
        except DecodeError as error:
            self._spool.refuse_frame(device.device, error.reason, frame)
            metrics.frames_refused.labels(error.reason).inc()
            log.warning("frame refused", extra={"device": device.device, "reason": error.reason})
            return
        if not measurement.values and not measurement.codes:
            return
        lane = LANE_PRIORITY if is_priority(measurement) else LANE_NORMAL
        seq = self._spool.append(wire.encode_measurement(measurement), lane)
        metrics.measurements_spooled.inc()
        log.debug("spooled", extra={"device": device.device, "record": measurement.record, "boot": self._spool.boot, "seq": seq})


async def run(settings: Settings, stop: asyncio.Event, scanner: type[Any] | None = None, client: type[Any] | None = None) -> None:
    """Until `stop`. scanner, client: bleak backend classes in place of the machine's own radio."""
    known = allowed.read(settings.devices)
    spool = Spool(settings.spool)
    station = Station()
    uplink = Uplink(spool, settings.site, settings.gateway, settings.resend_after, station.obey)
    intake = Intake(spool, station, ZoneInfo(settings.zone))

    def on_frame(device: Device, frame: bytes, clock: ClockReading | None, received_at: datetime) -> None:
        intake.accept(device, frame, clock, received_at)
        uplink.wake()

    password = settings.mqtt_password.get_secret_value() if settings.mqtt_password else None
    offline = json.dumps({"state": "offline", "boot": spool.boot}).encode()
    link = Link(
        settings.mqtt_host,
        settings.mqtt_port,
        settings.mqtt_user or settings.gateway,
        user=settings.mqtt_user or settings.gateway,
        password=password,
        ca=settings.mqtt_ca,
        will=Will(wire.topic(settings.site, settings.gateway, "up", "status"), offline),
        subscriptions=uplink.subscriptions,
        on_connected=uplink.on_connected,
    )
    radio = Radio(known, on_frame, scanner, client)
    metrics.serve(settings.metrics_port)
    try:
        async with link:
            work: list[asyncio.Future[Any]] = [asyncio.ensure_future(radio.run()), asyncio.ensure_future(uplink.run(link))]
            stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
            done, _ = await asyncio.wait([*work, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            for task in done - {stopping}:
                task.result()  # a radio or uplink that ended has failed; let the process end with it
            stopping.cancel()
    finally:
        spool.close()
