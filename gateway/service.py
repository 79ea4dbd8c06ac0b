"""The gateway process: radio → translate → spool → uplink, and the commands that come down."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

from gateway import devices
from gateway.devices import Device
from gateway.pairing import Commands, Pairing
from gateway.radio import Radio
from gateway.spool import LANE_NORMAL, LANE_PRIORITY, Item, Progress, Spool, Worth
from gateway.station import Station
from gateway.translate import Frame, translate
from gateway.uplink import Uplink
from vitals import wire
from vitals.errors import DecodeError
from vitals.floor import metrics
from vitals.floor.mqtt import Link, Will
from vitals.measurement import Measurement, is_priority
from vitals.settings import Settings

log = logging.getLogger("gateway.service")


# dense series: the first to go when the spool is full
TRENDS = frozenset({"heart_rate", "cgm", "activity"})


class Intake:
    """Frames become durable here, synchronously: the `Store` of every session. Raises only what the process must die of."""

    def __init__(self, spool: Spool, station: Station, zone: ZoneInfo, wake: Callable[[], None] = lambda: None) -> None:
        self._spool, self._station, self._zone, self._wake = spool, station, zone, wake
        self._count = itertools.count(1)

    def frames(self, device: Device, frames: list[Frame], progress: tuple[str, int, str] | None) -> None:
        """One transaction: what these frames measured, and how far the device's history was read."""
        measurements: list[Measurement] = []
        for frame in frames:
            measurements += self._translated(device, frame)
        items = [self._item(device, measurement) for measurement in measurements]
        mark = None if progress is None else Progress(device.device, *progress)
        if not items and mark is None:
            return
        numbers = self._spool.append(items, mark)
        for measurement, seq in zip(measurements, numbers, strict=True):
            if seq:
                log.debug(
                    "spooled", extra={"device": measurement.device, "record": measurement.record, "boot": self._spool.boot, "seq": seq}
                )
        metrics.measurements_spooled.inc(sum(1 for seq in numbers if seq))
        self._wake()

    def _translated(self, device: Device, frame: Frame) -> list[Measurement]:
        checkin = self._station.checkin(frame.received_at) if device.setting in ("kiosk", "clinic") else None
        own_record = f"{self._spool.boot}-{next(self._count)}"
        try:
            found, reasons = translate(frame, device, zone=self._zone, own_record=own_record, checkin=checkin)
        except DecodeError as error:
            self.refuse(device, frame, error.reason)
            return []
        for reason in reasons:
            metrics.frames_not_readings.labels(reason).inc()
        return found

    def _item(self, device: Device, measurement: Measurement) -> Item:
        danger = is_priority(measurement)
        worth = Worth.DANGER if danger else Worth.TREND if measurement.kind in TRENDS else Worth.SPOT
        # a sensor's live record comes again with the history that it interrupted
        replays = device.model.history in ("replay", "racp_reversed") or device.kind == "cgm"
        digest = (
            (measurement.device, f"{measurement.series}:{measurement.record}") if replays and measurement.identity == "device" else None
        )
        return Item(wire.encode_measurement(measurement), LANE_PRIORITY if danger else LANE_NORMAL, worth, digest)

    def refuse(self, device: Device, frame: Frame, reason: str) -> None:
        """Keep a frame that is no measurement, with its reason."""
        self._spool.refuse_frame(device.device, reason, frame.data)
        metrics.frames_refused.labels(reason).inc()
        log.warning("frame refused", extra={"device": device.device, "reason": reason})

    def history(self, device: str, series: str) -> tuple[int, str] | None:
        return self._spool.history(device, series)

    def clock_offset(self, device: str) -> float | None:
        return self._spool.clock_offset(device)

    def note_clock(self, device: str, offset: float) -> None:
        self._spool.note_clock(device, offset)


async def run(
    settings: Settings,
    stop: asyncio.Event,
    scanner: type[Any] | None = None,
    client: type[Any] | None = None,
    join: Callable[[Pairing], None] | None = None,
) -> None:
    """Until `stop`. scanner, client: bleak backend classes in place of the machine's own radio, whose passkeys `join` joins."""
    known = devices.read(settings.devices)
    spool = Spool(settings.spool, settings.spool_limit)
    station = Station()
    uplink = Uplink(spool, settings.site, settings.gateway, settings.resend_after)
    zone = ZoneInfo(settings.zone)
    radio = Radio(known, Intake(spool, station, zone, uplink.wake), zone, scanner, client)
    pairing = Pairing(known, settings.devices, radio, spool, uplink.report)
    radio.on_bond_lost = pairing.lost
    uplink.on_command = Commands(station, pairing).obey
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
    metrics.serve(settings.metrics_port)
    if join is not None:
        join(pairing)
    agent = await _agent(pairing) if client is None else None
    try:
        async with link:
            work: list[asyncio.Future[Any]] = [asyncio.ensure_future(radio.run()), asyncio.ensure_future(uplink.run(link))]
            stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
            done, _ = await asyncio.wait([*work, stopping], return_when=asyncio.FIRST_COMPLETED)
            pairing.stop()
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            for task in done - {stopping}:
                task.result()  # a radio or uplink that ended has failed; let the process end with it
            stopping.cancel()
    finally:
        if agent is not None:
            agent.close()
        spool.close()


async def _agent(pairing: Pairing) -> Any:
    """BlueZ's pairing agent; without one only devices that ask for no passkey can be bonded."""
    from gateway.agent import Agent  # BlueZ only: other systems have no D-Bus to export it on

    agent = Agent(pairing.passkey)
    try:
        await agent.register()
    except Exception as error:  # noqa: BLE001  a missing bus, daemon or permission: the radio will tell its own story
        log.warning("no pairing agent", extra={"error": type(error).__name__})
        return None
    pairing.asked = agent.asked
    return agent
