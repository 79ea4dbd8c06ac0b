"""The station's adapter on the simulated air: one bumble central, shared by both ways to reach it.

Connection attempts are serialised, as a real adapter serialises them (two at once also trip an assertion in
bumble 0.0.236).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from bleak.backends.scanner import AdvertisementData
from bumble import core, hci
from bumble.core import UUID, AdvertisingData
from bumble.device import Connection, Device
from bumble.keys import MemoryKeyStore
from bumble.pairing import PairingConfig, PairingDelegate

from firmware_sim.link import SimController, SimLink

ADDRESS = "C0:00:00:00:00:01"
MTU = 517
NEEDS_ENCRYPTION = (0x05, 0x0F)  # ATT errors that make a host raise security and try once more


class _Keyboard(PairingDelegate):  # type: ignore[misc]
    """The host's side of a pairing: it can enter a passkey, if somebody knows one."""

    def __init__(self, central: Central, address: str) -> None:
        super().__init__(PairingDelegate.KEYBOARD_INPUT_ONLY)
        self._central, self._address = central, address

    async def get_number(self) -> int | None:
        return await self._central.ask_passkey(self._address)


async def _nobody_knows(_address: str) -> int | None:
    return None


class Central:
    """One adapter. `device` is bumble's; use `connect` so that attempts queue up.

    ask_passkey: who is asked when a device wants its six digits entered; gets the address, None refuses.
    """

    def __init__(self, link: SimLink, address: str = ADDRESS) -> None:
        self.ask_passkey: Callable[[str], Awaitable[int | None]] = _nobody_knows
        controller = SimController("central", link=link)
        self.device = Device.with_hci("central", hci.Address(address), controller, controller)
        self.device.keystore = MemoryKeyStore()
        self.device.pairing_config_factory = lambda connection: PairingConfig(
            sc=True, mitm=True, bonding=True, delegate=_Keyboard(self, connection.peer_address.to_string(False))
        )
        self._turn = asyncio.Lock()

    async def power_on(self) -> None:
        await self.device.power_on()

    async def connect(self, address: hci.Address, timeout: float) -> Connection:  # noqa: ASYNC109  bumble times it
        """Connect within `timeout` seconds of our turn; raises TimeoutError."""
        async with self._turn:
            try:
                return await self.device.connect(address, timeout=timeout)
            except core.TimeoutError:
                raise TimeoutError(f"no advertisement of {address} within {timeout} s") from None

    def bonded(self) -> set[str]:
        """Addresses we hold keys for."""
        return {key.split("/")[0] for key in getattr(self.device.keystore, "all_keys", {})}

    async def forget(self, address: hci.Address) -> None:
        for name in (str(address), address.to_string(False)):
            try:
                await self.device.keystore.delete(name)
            except KeyError:
                continue


def full_uuid(uuid: UUID) -> str:
    """The 128-bit lower-case text of any bumble UUID, as bleak and BlueZ write it."""
    if len(uuid.uuid_bytes) == 16:
        return str(uuid.to_hex_str("-")).lower()
    return f"{int.from_bytes(uuid.uuid_bytes, 'little'):08x}-0000-1000-8000-00805f9b34fb"


def parse_advertisement(advertisement: Any) -> AdvertisementData:
    """bumble's accumulated advertisement → bleak's."""
    uuids: list[str] = []
    service_data: dict[str, bytes] = {}
    manufacturer: dict[int, bytes] = {}
    name: str | None = None
    power: int | None = None
    kinds = AdvertisingData
    for kind, value in advertisement.data.ad_structures:
        if kind in (kinds.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS, kinds.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS):
            uuids += [full_uuid(UUID.from_bytes(value[i : i + 2])) for i in range(0, len(value), 2)]
        elif kind in (kinds.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS, kinds.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS):
            uuids += [full_uuid(UUID.from_bytes(value[i : i + 16])) for i in range(0, len(value), 16)]
        elif kind in (kinds.COMPLETE_LOCAL_NAME, kinds.SHORTENED_LOCAL_NAME):
            name = value.decode("utf-8", "replace")
        elif kind == kinds.MANUFACTURER_SPECIFIC_DATA:
            manufacturer[int.from_bytes(value[:2], "little")] = bytes(value[2:])
        elif kind == kinds.SERVICE_DATA_16_BIT_UUID:
            service_data[full_uuid(UUID.from_bytes(value[:2]))] = bytes(value[2:])
        elif kind == kinds.SERVICE_DATA_128_BIT_UUID:
            service_data[full_uuid(UUID.from_bytes(value[:16]))] = bytes(value[16:])
        elif kind == kinds.TX_POWER_LEVEL:
            power = int.from_bytes(value[:1], "little", signed=True)
    return AdvertisementData(name, manufacturer, service_data, uuids, power, advertisement.rssi, (advertisement,))
