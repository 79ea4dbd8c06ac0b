"""What org.bluez looks like on a bus: interface names, property types, errors, and the tree of objects.

The tree announces itself as bluetoothd's does: InterfacesAdded and InterfacesRemoved from "/", PropertiesChanged with
what really changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

BLUEZ = "org.bluez"
ADAPTER, DEVICE, SERVICE, CHARACTERISTIC, DESCRIPTOR = (
    f"{BLUEZ}.{name}" for name in ("Adapter1", "Device1", "GattService1", "GattCharacteristic1", "GattDescriptor1")
)
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECTS = "org.freedesktop.DBus.ObjectManager"

SIGNATURES = {
    "Address": "s", "AddressType": "s", "Name": "s", "Alias": "s", "Class": "u", "Powered": "b", "Discoverable": "b",
    "Pairable": "b", "Discovering": "b", "UUIDs": "as", "Roles": "as", "Paired": "b", "Bonded": "b", "Trusted": "b",
    "Blocked": "b", "LegacyPairing": "b", "Connected": "b", "Adapter": "o", "RSSI": "n", "TxPower": "n",
    "ManufacturerData": "a{qv}", "ServiceData": "a{sv}", "ServicesResolved": "b", "UUID": "s", "Primary": "b",
    "Device": "o", "Includes": "ao", "Service": "o", "Value": "ay", "Notifying": "b", "NotifyAcquired": "b",
    "WriteAcquired": "b", "Flags": "as", "MTU": "q", "Characteristic": "o",
}  # fmt: skip
GATT_FLAGS = (
    "broadcast", "read", "write-without-response", "write", "notify", "indicate", "authenticated-signed-writes", "extended-properties",
)  # fmt: skip


class BluezError(Exception):
    """An error reply: name below org.bluez.Error and the text bluetoothd would give."""

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(text)
        self.name, self.text = f"{BLUEZ}.Error.{name}", text


_ATT_ERRORS = {
    0x02: ("NotPermitted", "Read not permitted"),
    0x03: ("NotPermitted", "Write not permitted"),
    0x05: ("NotPermitted", "Not paired"),
    0x06: ("NotSupported", ""),
    0x07: ("InvalidArguments", "Invalid offset"),
    0x08: ("NotAuthorized", ""),
    0x0C: ("NotPermitted", "Not paired"),
    0x0D: ("InvalidArguments", "Invalid Length"),
    0x0F: ("NotPermitted", "Not paired"),
    0xFD: ("ImproperlyConfigured", ""),
}


def att_error(code: int) -> BluezError:
    """As bluetoothd's create_gatt_dbus_error does; bleak parses the text of the last form."""
    return BluezError(*_ATT_ERRORS.get(code, ("Failed", f"Operation failed with ATT error: 0x{code:02x}")))


class PatientSocket:
    """dbus-fast 5.2.0 takes EAGAIN on a burst for the end of the bus; reporting 0 bytes makes it wait instead."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send(self, data: bytes) -> int:
        try:
            return int(self._real.send(data))
        except BlockingIOError:
            return 0


class ObjectTree:
    """path → interface → properties, and the signals that tell of every change."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self.objects: dict[str, dict[str, dict[str, Any]]] = {}

    @staticmethod
    def variants(properties: dict[str, Any]) -> dict[str, Variant]:
        def wrap(name: str, value: Any) -> Any:
            return {key: Variant("ay", data) for key, data in value.items()} if name.endswith("Data") else value

        return {name: Variant(SIGNATURES[name], wrap(name, value)) for name, value in properties.items()}

    def _signal(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        message = Message(message_type=MessageType.SIGNAL, path=path, interface=interface, member=member, signature=signature, body=body)
        self._bus.send(message)

    def add(self, path: str, interfaces: dict[str, dict[str, Any]]) -> None:
        self.objects[path] = interfaces
        body = [path, {name: self.variants(values) for name, values in interfaces.items()}]
        self._signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", body)

    def drop(self, path: str) -> None:
        interfaces = self.objects.pop(path, None)
        if interfaces is not None:
            self._signal("/", OBJECTS, "InterfacesRemoved", "oas", [path, list(interfaces)])

    def set(self, path: str, interface: str, invalidate: Sequence[str] = (), **values: Any) -> None:
        current = self.objects[path][interface]
        changed = {name: value for name, value in values.items() if name in ("Value", "RSSI") or current.get(name) != value}
        gone = [name for name in invalidate if current.pop(name, None) is not None]
        current.update(changed)
        if changed or gone:
            self._signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface, self.variants(changed), gone])

    def children(self, path: str) -> list[str]:
        return [other for other in self.objects if other.startswith(path + "/")]
