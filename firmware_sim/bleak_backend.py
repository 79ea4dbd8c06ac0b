"""A bleak backend pair over the simulated central, in process: for fast tests and where no D-Bus daemon is installed.

    BleakScanner(backend=SimScanner), BleakClient(device, backend=SimClient), after `use(central)`.

bleak constructs its backends itself from a class, so the central they use is a module's fact, not an argument.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from bleak.assigned_numbers import gatt_char_props_to_strs
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakError, BleakGATTProtocolError
from bumble import core, hci
from bumble.att import ATT_Error
from bumble.device import Connection, Peer

from firmware_sim.central import MTU, NEEDS_ENCRYPTION, Central, full_uuid, parse_advertisement

_central: Central | None = None
_scanning = 0


def use(central: Central) -> None:
    """Make `central` the adapter of every SimScanner and SimClient of this process."""
    global _central, _scanning
    _central, _scanning = central, 0


def _adapter() -> Central:
    if _central is None:
        raise BleakError("no simulated adapter: call firmware_sim.bleak_backend.use first")
    return _central


class SimScanner(BaseBleakScanner):
    """bleak's scanner over the simulated air."""

    def __init__(self, detection_callback: Any, service_uuids: Any, scanning_mode: str, **_options: Any) -> None:
        super().__init__(detection_callback, service_uuids)
        self._active = scanning_mode == "active"
        self._started = False

    async def start(self) -> None:
        global _scanning
        self.seen_devices = {}
        if self._started:
            return
        self._started = True
        device = _adapter().device
        device.on("advertisement", self._heard)
        _scanning += 1
        if _scanning == 1:
            await device.start_scanning(active=self._active, filter_duplicates=False)

    async def stop(self) -> None:
        global _scanning
        if not self._started:
            return
        self._started = False
        device = _adapter().device
        device.remove_listener("advertisement", self._heard)
        _scanning -= 1
        if not _scanning:
            await device.stop_scanning()

    def _heard(self, advertisement: Any) -> None:
        data = parse_advertisement(advertisement)
        if not self.is_allowed_uuid(data.service_uuids):
            return
        address = advertisement.address.to_string(False)
        device = self.create_or_update_device(address, address, data.local_name or "", advertisement.address, data)
        self.call_detection_callbacks(device, data)


def _over_the_link(method: Callable[..., Awaitable[Any]]) -> Any:
    """Translate bumble's errors into bleak's, and a dead link into BleakError instead of a cancelled task."""

    @functools.wraps(method)
    async def wrapped(self: SimClient, *arguments: Any, **options: Any) -> Any:
        if not self.is_connected:
            raise BleakError("Not connected")
        try:
            try:
                return await method(self, *arguments, **options)
            except ATT_Error as error:
                if error.error_code not in NEEDS_ENCRYPTION or self.is_encrypted:
                    raise
            await self.pair()  # as a kernel does when a value asks for encryption
            return await method(self, *arguments, **options)
        except ATT_Error as error:
            raise BleakGATTProtocolError(error.error_code) from error
        except asyncio.CancelledError:
            if not self.is_connected:
                raise BleakError("disconnected") from None
            raise

    return wrapped


class SimClient(BaseBleakClient):
    """bleak's client over the simulated air."""

    def __init__(self, address_or_ble_device: BLEDevice | str, services: set[str] | None = None, **options: Any) -> None:
        super().__init__(address_or_ble_device, disconnected_callback=options["disconnected_callback"], timeout=options["timeout"])
        known = isinstance(address_or_ble_device, BLEDevice)
        self._hci_address: hci.Address = address_or_ble_device.details if known else hci.Address(self.address)  # type: ignore[union-attr]
        self._name = address_or_ble_device.name if known else None  # type: ignore[union-attr]
        self._wanted = services
        self._connection: Connection | None = None
        self._subscriptions: dict[int, Callable[[bytes], None]] = {}

    @property
    def name(self) -> str:
        return self._name or self.address.replace(":", "-")

    @property
    def mtu_size(self) -> int:
        return self._connection.att_mtu if self._connection else 23

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    @property
    def is_encrypted(self) -> bool:
        return self._connection is not None and bool(self._connection.is_encrypted)

    async def connect(self, pair: bool, **options: Any) -> None:
        if self.is_connected:
            raise BleakError("Client is already connected")
        connection = await _adapter().connect(self._hci_address, options.get("timeout", self._timeout))
        self._connection = connection
        connection.on("disconnection", self._lost)
        try:
            self._peer = Peer(connection)
            await self._peer.request_mtu(MTU)
            if pair:
                await self.pair()
            elif connection.peer_address.to_string(False) in _adapter().bonded():
                try:
                    await connection.encrypt()
                except hci.HCI_Error as error:
                    raise BleakError("failed to discover services, device disconnected") from error
            await self._discover()
        except BaseException:
            if self._connection is not None:
                await connection.disconnect()
            raise

    def _lost(self, _reason: int) -> None:
        self._connection = None
        self.services = None
        self._subscriptions.clear()
        if self._disconnected_callback:
            self._disconnected_callback()

    async def _discover(self) -> None:
        collection = BleakGATTServiceCollection()
        await self._peer.discover_services()
        for service in self._peer.services:
            found = BleakGATTService(service, service.handle, full_uuid(service.uuid))
            if self._wanted and found.uuid not in self._wanted:
                continue
            collection.add_service(found)
            await service.discover_characteristics()
            for item in service.characteristics:
                await item.discover_descriptors()
                properties = list(gatt_char_props_to_strs(int(item.properties)))
                value = BleakGATTCharacteristic(item, item.handle, full_uuid(item.uuid), properties, lambda: self.mtu_size - 3, found)
                collection.add_characteristic(value)
                for descriptor in item.descriptors:
                    collection.add_descriptor(BleakGATTDescriptor(descriptor, descriptor.handle, full_uuid(descriptor.type), value))
        self.services = collection

    async def disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect()

    async def pair(self, *_arguments: Any, **_options: Any) -> None:
        connection = self._connection
        if connection is None:
            raise BleakError("Not connected")
        try:
            if connection.peer_address.to_string(False) in _adapter().bonded():
                if not connection.is_encrypted:
                    await connection.encrypt()
            else:
                await connection.pair()
        except (core.ProtocolError, hci.HCI_Error) as error:
            raise BleakError(f"pairing failed: {error}") from error

    async def unpair(self) -> None:
        await _adapter().forget(self._hci_address)

    @_over_the_link
    async def read_gatt_char(self, characteristic: BleakGATTCharacteristic, **_options: Any) -> bytearray:
        return bytearray(await characteristic.obj.read_value())

    @_over_the_link
    async def read_gatt_descriptor(self, descriptor: BleakGATTDescriptor, **_options: Any) -> bytearray:
        return bytearray(await descriptor.obj.read_value())

    @_over_the_link
    async def write_gatt_char(self, characteristic: BleakGATTCharacteristic, data: bytes, response: bool) -> None:
        await characteristic.obj.write_value(bytes(data), with_response=response)

    @_over_the_link
    async def write_gatt_descriptor(self, descriptor: BleakGATTDescriptor, data: bytes) -> None:
        await descriptor.obj.write_value(bytes(data), with_response=True)

    @_over_the_link
    async def start_notify(self, characteristic: BleakGATTCharacteristic, callback: Callable[[bytearray], None], **_options: Any) -> None:
        def heard(value: bytes) -> None:
            callback(bytearray(value))

        # the same function when it is tried again after pairing: bumble keeps a set of them
        await characteristic.obj.subscribe(self._subscriptions.setdefault(characteristic.handle, heard))

    @_over_the_link
    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        await characteristic.obj.unsubscribe(self._subscriptions.pop(characteristic.handle, None))
