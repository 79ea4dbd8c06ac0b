"""Virtual devices beside cuffs and meters: heart-rate band, oximeter, thermometer, scale, activity band, and two that only broadcast."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from bumble.core import UUID, AdvertisingData
from bumble.device import Connection
from bumble.gatt import CharacteristicValue, Service

from firmware_sim.device import INDICATE, NOTIFY, READ, WRITE, VirtualDevice, characteristic
from firmware_sim.recorder import Recorder
from vitals.errors import DecodeError
from vitals.gatt.activity import SleepSummary, StepSummary, SummaryHeader
from vitals.gatt.advertised import BTHOME_UUID, BTHome, XiaomiScale
from vitals.gatt.fields import DeviceTime
from vitals.gatt.heart_rate import HeartRateMeasurement
from vitals.gatt.oximeter import Continuous, SpotCheck
from vitals.gatt.scale import CONSENT, USER_NOT_AUTHORISED, USER_SUCCESS, BodyComposition, UserControl, WeightMeasurement
from vitals.gatt.thermometer import TemperatureMeasurement


class Stream(VirtualDevice):
    """A device that notifies as long as somebody listens: what `measure` gives it, as it comes."""

    SERVICE = 0
    VALUE = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.value = characteristic(self.VALUE, NOTIFY)
        self._waiting: list[bytes] = []
        self._listening: Connection | None = None
        super().__init__(*arguments, **{"protected": False, **options})
        self.value.on("subscription", self._on_subscription)

    def services(self) -> list[Service]:
        self.protect_subscription(self.value)
        return [Service(UUID.from_16_bits(self.SERVICE), [self.value])]

    def _on_subscription(self, connection: Connection, notify: bool, _indicate: bool) -> None:
        self._listening = connection if notify else None
        if notify:
            self._flushing = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        while self._waiting and self._listening is not None:
            await self.device.notify_subscriber(self._listening, self.value, self._waiting.pop(0))
            if not await self.sent(self._listening):
                return

    async def remember(self, frame: bytes, number: int | None = None) -> None:
        """Send a ready frame as soon as somebody listens."""
        assert number in (None, self.VALUE)
        self._waiting.append(frame)
        await self.wake()
        await self._flush()

    def _on_disconnection(self, reason: int) -> None:
        super()._on_disconnection(reason)
        self._listening = None


class HeartRateBand(Stream):
    """Beats a minute and RR intervals; off the skin it says so."""

    ADVERTISES = (0x180D,)
    SERVICE = 0x180D
    VALUE = 0x2A37

    async def measure(self, rate: int, *, rr: list[int] | None = None, contact: bool | None = None) -> bytes:
        """rr in 1/1024 s."""
        frame = bytes(HeartRateMeasurement(rate, contact, rr=tuple(rr or ())))
        await self.remember(frame)
        return frame


class ContinuousOximeter(Stream):
    """A fingertip oximeter that streams."""

    ADVERTISES = (0x1822,)
    SERVICE = 0x1822
    VALUE = 0x2A5F

    async def measure(self, spo2: float, pulse: float, *, sensor: int = 0, status: int = 0x20) -> bytes:
        frame = bytes(Continuous(spo2, pulse, measurement_status=status, sensor_status=sensor))
        await self.remember(frame)
        return frame


class Oximeter(Recorder):
    """A spot-check oximeter with a clock."""

    ADVERTISES = (0x1822,)
    SERVICE = 0x1822
    VALUES = (0x2A5E,)

    async def measure(
        self, spo2: float, pulse: float, *, status: int | None = None, sensor: int | None = None, seconds_ago: float = 0
    ) -> bytes:
        taken = DeviceTime.of(self.clock.at(self.clock.now() - timedelta(seconds=seconds_ago)))
        frame = bytes(SpotCheck(spo2, pulse, taken, status, sensor))
        await self.remember(frame)
        return frame


class Thermometer(Recorder):
    """An ear thermometer; whether its clock was ever set is the clock's affair."""

    ADVERTISES = (0x1809,)
    SERVICE = 0x1809
    VALUES = (0x2A1C,)

    async def measure(self, temperature: float, *, unit: str = "Cel", site: int = 3, seconds_ago: float = 0) -> bytes:
        taken = DeviceTime.of(self.clock.at(self.clock.now() - timedelta(seconds=seconds_ago)))
        frame = bytes(TemperatureMeasurement(temperature, unit, taken, site))
        await self.remember(frame)
        return frame


class Scale(Recorder):
    """Weight and body composition of a consented user. code: what the user's consent must be; None asks for none."""

    ADVERTISES = (0x181D, 0x181B)
    SERVICE = 0x181D
    VALUES = (0x2A9D, 0x2A9C)

    def __init__(self, *arguments: Any, code: int | None = 1234, user: int = 1, **options: Any) -> None:
        self._code, self._user = code, user
        self._consented = asyncio.Event()
        answers = CharacteristicValue(read=lambda _connection: b"", write=self._asked)
        self.control = characteristic(0x2A9F, WRITE | INDICATE, answers)
        super().__init__(*arguments, **options)

    def services(self) -> list[Service]:
        self.protect_subscription(self.control)
        for value in self.values.values():
            self.protect_subscription(value)
        return [
            Service(UUID.from_16_bits(0x181C), [self.control]),
            Service(UUID.from_16_bits(0x181D), [self.values[0x2A9D], characteristic(0x2A9E, READ, bytes(4))]),
            Service(UUID.from_16_bits(0x181B), [self.values[0x2A9C], characteristic(0x2A9B, READ, bytes(4))]),
        ]

    def _asked(self, connection: Connection, data: bytes) -> None:
        try:
            request = UserControl.from_bytes(bytes(data))
        except DecodeError:
            return
        right = request == UserControl.consent(self._user, self._code or 0) if request.op == CONSENT else False
        if right:
            self._consented.set()
        answer = UserControl.response(request.op, USER_SUCCESS if right else USER_NOT_AUTHORISED)
        self._answering = asyncio.get_running_loop().create_task(self.device.indicate_subscriber(connection, self.control, bytes(answer)))

    async def ready(self, connection: Connection) -> bool:
        if self._code is not None:
            try:
                async with asyncio.timeout(5.0):
                    await self._consented.wait()
            except TimeoutError:
                return False
        return await super().ready(connection)

    def _on_disconnection(self, reason: int) -> None:
        super()._on_disconnection(reason)
        self._consented.clear()

    async def measure(
        self, weight: float, *, fat: float | None = None, impedance: float | None = None, unit: str = "kg", split: bool = False,
        user: int | None = None, seconds_ago: float = 0,
    ) -> bytes:  # fmt: skip
        """weight in `unit`; fat in percent, impedance in Ohm; split: the composition comes in two packets."""
        taken = DeviceTime.of(self.clock.at(self.clock.now() - timedelta(seconds=seconds_ago)))
        who = self._user if user is None else user
        frame = bytes(WeightMeasurement(round(weight * (200 if unit == "kg" else 100)), unit, taken, who))
        await self.remember(frame, 0x2A9D)
        if fat is not None:
            ohms = None if impedance is None else round(impedance * 10)
            if split:
                await self.remember(bytes(BodyComposition(round(fat * 10), unit, taken, who, muscle_share=400, multiple=True)), 0x2A9C)
                await self.remember(bytes(BodyComposition(round(fat * 10), unit, taken, who, impedance=ohms, multiple=True)), 0x2A9C)
            else:
                await self.remember(bytes(BodyComposition(round(fat * 10), unit, impedance=ohms)), 0x2A9C)
        return frame


class ActivityBand(Recorder):
    """Steps and sleep by the Physical Activity Monitor service."""

    ADVERTISES = (0x183E,)
    SERVICE = 0x183E
    VALUES = (0x2B40, 0x2B42)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._sequence = 0
        super().__init__(*arguments, **options)

    async def measure(self, steps: int | None = None, *, sleep_minutes: float | None = None, distance: int | None = None) -> bytes:
        self._sequence += 1
        header = SummaryHeader(1, self._sequence, 0, self._sequence)
        if steps is not None:
            frame = bytes(StepSummary(header, walking_steps=steps, distance=distance))
            await self.remember(frame, 0x2B40)
            return frame
        frame = bytes(SleepSummary(header, total_sleep=round((sleep_minutes or 0) * 60)))
        await self.remember(frame, 0x2B42)
        return frame


class Broadcaster(VirtualDevice):
    """A device that is never connected: what it measures is in its advertisement."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.controller.connectable = False

    async def broadcast(self, uuid: int, data: bytes) -> None:
        """Advertise this service data from now on."""
        await self.device.stop_advertising()
        service_data = (AdvertisingData.SERVICE_DATA_16_BIT_UUID, uuid.to_bytes(2, "little") + data)
        self.device.advertising_data = bytes(AdvertisingData([(AdvertisingData.FLAGS, b"\x06"), service_data]))
        await self.device.start_advertising(auto_restart=False, advertising_data=self.device.advertising_data)


class ThermalSensor(Broadcaster):
    """A BTHome v2 sensor. key: 16 bytes for the encrypted form, whose counter rises with every measurement."""

    def __init__(self, *arguments: Any, key: str | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._key = bytes.fromhex(key) if key else None
        self.counter = 0
        self._said: list[bytes] = []

    async def measure(self, temperature: float) -> bytes:
        self.counter += 1
        value = BTHome(((0x00, self.counter & 0xFF), (0x02, round(temperature * 100))))
        data = bytes(value) if self._key is None else value.encrypted(self._key, self.address, self.counter)
        self._said.append(data)
        await self.broadcast(BTHOME_UUID, data)
        return data

    async def replay(self, first: int) -> None:
        """Somebody else repeats what this sensor once said."""
        await self.broadcast(BTHOME_UUID, self._said[first])


class BroadcastScale(Broadcaster):
    """A Xiaomi scale of the first kind: weight and its own clock in service data."""

    async def measure(self, weight: float, *, stabilised: bool = True, removed: bool = False) -> bytes:
        flags = 0x02 | 0x20 * stabilised | 0x80 * removed
        data = bytes(XiaomiScale(flags, round(weight * 200), DeviceTime.of(self.clock.at(self.clock.now()))))
        await self.broadcast(0x181D, data)
        return data
