"""A virtual Bluetooth device: services, bonds, a clock of its own, and when it advertises.

The pattern of measuring devices: asleep; after a measurement it advertises for a while, accepts a connection,
wants to be bonded and subscribed, sends what it has stored, oldest first, and disconnects.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from bumble import hci
from bumble.att import ATT_Error
from bumble.core import UUID, AdvertisingData
from bumble.device import Connection, Device, DeviceConfiguration
from bumble.gatt import Characteristic, CharacteristicValue, Descriptor, Service
from bumble.keys import MemoryKeyStore, PairingKeys
from bumble.pairing import PairingConfig, PairingDelegate

from firmware_sim.link import SimController, SimLink
from vitals.gatt import CurrentTime, DeviceTime

READ = Characteristic.Properties.READ
WRITE = Characteristic.Properties.WRITE
NOTIFY = Characteristic.Properties.NOTIFY
INDICATE = Characteristic.Properties.INDICATE
CCCD = 0x2902
WRITE_NOT_PERMITTED = 0x03


class BondStore(MemoryKeyStore):  # type: ignore[misc]
    """Bonds of one device. bumble 0.0.236 hands back the wrong key after legacy pairing; this keeps the right one."""

    async def update(self, name: str, keys: PairingKeys) -> None:
        if keys.ltk is None and keys.ltk_central is not None:
            keys.ltk_peripheral = keys.ltk_central
        await super().update(name, keys)


class DeviceClock:
    """The wall clock inside a device: local time in `zone`, wrong by `offset`. `now` gives true aware time."""

    def __init__(self, now: Callable[[], datetime], zone: str, offset: timedelta = timedelta()) -> None:
        self.now = now
        self.zone = ZoneInfo(zone)
        self.offset = offset
        self.on_write: Callable[[], object] = lambda: None

    def at(self, moment: datetime) -> datetime:
        """What the device's clock shows (naive local) at a true moment."""
        return moment.astimezone(self.zone).replace(tzinfo=None) + self.offset

    def read(self) -> bytes:
        shown = self.at(self.now())
        return bytes(CurrentTime(DeviceTime.of(shown), shown.isoweekday(), shown.microsecond * 256 // 1_000_000))

    def write(self, data: bytes) -> None:
        told = CurrentTime.from_bytes(data).time.calendar()
        if told is not None:
            self.offset = told - self.now().astimezone(self.zone).replace(tzinfo=None)
            self.on_write()


class _Display(PairingDelegate):  # type: ignore[misc]
    """A device that shows six digits; without them it has neither display nor keys."""

    def __init__(self, passkey: int | None) -> None:
        super().__init__(PairingDelegate.NO_OUTPUT_NO_INPUT if passkey is None else PairingDelegate.DISPLAY_OUTPUT_ONLY)
        self._passkey = passkey

    async def generate_passkey(self) -> int:
        return self._passkey or 0


class VirtualDevice:
    """Base of every virtual device: Device Information, Battery, Current Time, bonds and the advertising policy.

    address: random static, "F0:…". interval: seconds between advertisements. passkey: six digits it shows when it is
    bonded. protected: subscribing needs an encrypted link. Families say what they advertise in `ADVERTISES`.
    """

    ADVERTISES: tuple[int, ...] = ()

    def __init__(
        self,
        link: SimLink,
        name: str,
        address: str,
        clock: DeviceClock,
        *,
        serial: str = "SN0001",
        interval: float = 0.1,
        passkey: int | None = None,
        protected: bool = True,
    ) -> None:
        self.name, self.address, self.clock, self.link = name, address, clock, link
        self.protected = protected
        self.controller = SimController(name, link=link)
        milliseconds = interval * 1000 / 0.625  # bumble passes the number through as HCI units
        configuration = DeviceConfiguration(
            name=name, address=hci.Address(address), advertising_interval_min=milliseconds, advertising_interval_max=milliseconds
        )
        services = struct.pack(f"<{len(self.ADVERTISES)}H", *self.ADVERTISES)
        configuration.advertising_data = bytes(
            AdvertisingData(
                [
                    (AdvertisingData.FLAGS, b"\x06"),
                    (AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS, services),
                    (AdvertisingData.COMPLETE_LOCAL_NAME, name.encode()),
                ]
            )
        )
        self.device = Device.from_config_with_hci(configuration, self.controller, self.controller)
        self.device.keystore = BondStore()
        self.device.pairing_config_factory = lambda _connection: PairingConfig(
            sc=True, mitm=passkey is not None, bonding=True, delegate=_Display(passkey)
        )
        self.device.on("connection", self._on_connection)
        self.connection: Connection | None = None
        self.battery = 100
        self.drop_after: int | None = None  # frames until the link is lost
        self.device.add_services([*self.services(), *self._common_services(serial)])

    def services(self) -> list[Service]:
        """The services of this family; subclasses say which."""
        return []

    def _common_services(self, serial: str) -> list[Service]:
        information = {0x2A29: b"yizhan", 0x2A24: type(self).__name__.encode(), 0x2A25: serial.encode(), 0x2A26: b"1.0"}
        clock = CharacteristicValue(read=lambda _c: self.clock.read(), write=lambda _c, value: self.clock.write(bytes(value)))
        battery = CharacteristicValue(read=lambda _c: bytes((self.battery,)))
        return [
            Service(UUID.from_16_bits(0x180A), [characteristic(number, READ, value) for number, value in information.items()]),
            Service(UUID.from_16_bits(0x180F), [characteristic(0x2A19, READ | NOTIFY, battery)]),
            Service(UUID.from_16_bits(0x1805), [characteristic(0x2A2B, READ | WRITE | NOTIFY, clock)]),
        ]

    def protect_subscription(self, value: Characteristic) -> None:
        """Make subscribing to a characteristic require an encrypted link, as bonded health devices do."""
        if not self.protected:
            return
        value.descriptors = [
            Descriptor(
                UUID.from_16_bits(CCCD),
                Characteristic.READABLE | Characteristic.WRITEABLE | Characteristic.WRITE_REQUIRES_ENCRYPTION,
                self.device.gatt_server.make_descriptor_value(value),
            )
        ]

    async def power_on(self) -> None:
        await self.device.power_on()

    async def wake(self) -> None:
        """Start advertising, unless connected or already on the air."""
        if self.connection is None and not self.device.is_advertising:
            await self.device.start_advertising(auto_restart=False)

    async def sent(self, connection: Connection) -> bool:
        """Count one frame that left; False when the link was lost over it (`drop_after`)."""
        if self.drop_after is not None:
            self.drop_after -= 1
            if self.drop_after <= 0:
                self.drop_after = None
                await connection.disconnect(hci.HCI_CONNECTION_TIMEOUT_ERROR)
                return False
        return self.connection is connection

    def set_clock(self, shown: datetime) -> None:
        """Somebody sets the clock: from now on it shows `shown` (naive local)."""
        self.clock.offset = shown - self.clock.now().astimezone(self.clock.zone).replace(tzinfo=None)

    def lose_bonds(self) -> None:
        """A reset of the device: it knows no host any more."""
        self.device.keystore = BondStore()

    def vanish(self) -> None:
        """The battery is pulled: no goodbye."""
        self.link.vanish(self.controller)

    def appear(self) -> None:
        """Back in range."""
        self.link.appear(self.controller)

    def _on_connection(self, connection: Connection) -> None:
        self.connection = connection
        connection.on("disconnection", self._on_disconnection)

    def _on_disconnection(self, _reason: int) -> None:
        self.connection = None

    async def hang_up(self) -> None:
        """Disconnect as a device does when it is done (remote user terminated, 0x13)."""
        if self.connection is not None:
            await self.connection.disconnect(hci.HCI_REMOTE_USER_TERMINATED_CONNECTION_ERROR)


def characteristic(number: int, properties: Characteristic.Properties, value: bytes | CharacteristicValue = b"") -> Characteristic:
    """A characteristic with the permissions its properties need; what is not writable refuses with ATT error 0x03."""
    permissions = (Characteristic.READABLE if properties & READ else 0) | (Characteristic.WRITEABLE if properties & WRITE else 0)
    if not properties & WRITE:
        value = CharacteristicValue(read=value.read if isinstance(value, CharacteristicValue) else _constant(value), write=_refuse_write)
    return Characteristic(UUID.from_16_bits(number), properties, Characteristic.Permissions(permissions), value)


def _constant(value: bytes) -> Callable[[Connection], bytes]:
    return lambda _connection: value


def _refuse_write(_connection: Connection, _value: bytes) -> None:
    raise ATT_Error(WRITE_NOT_PERMITTED)
