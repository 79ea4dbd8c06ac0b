"""GATT as org.bluez shows it: services, characteristics and descriptors on the bus, reads, writes and notifications."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from bumble.att import ATT_Error
from bumble.device import Connection

from firmware_sim.bluez import CHARACTERISTIC, DESCRIPTOR, GATT_FLAGS, SERVICE, BluezError, ObjectTree, att_error
from firmware_sim.central import NEEDS_ENCRYPTION, full_uuid


@dataclass
class Attribute:
    """A characteristic or descriptor on the bus. Subscribers are bus names."""

    item: Any
    device: str
    subscribers: set[str] = field(default_factory=set)
    sockets: list[socket.socket] = field(default_factory=list)
    callback: Callable[[bytes], None] | None = None


class Gatt:
    """The attributes of every connected device. pair: what a kernel does when a value asks for encryption."""

    def __init__(self, tree: ObjectTree, pair: Callable[[str], Awaitable[None]], connection_of: Callable[[str], Connection | None]) -> None:
        self._tree, self._pair, self._connection_of = tree, pair, connection_of
        self.attributes: dict[str, Attribute] = {}

    def drop(self, path: str) -> None:
        """An object leaves the bus."""
        self.attributes.pop(path, None)
        self._tree.drop(path)

    def lost(self, device: str) -> None:
        """The link is gone: notifications end with it."""
        for path in self._tree.children(device):
            attribute = self.attributes.get(path)
            if attribute is None:
                continue
            for opened in attribute.sockets:
                opened.close()
            attribute.sockets.clear()
            attribute.subscribers.clear()
            if CHARACTERISTIC in self._tree.objects[path] and self._tree.objects[path][CHARACTERISTIC].get("Notifying"):
                self._tree.set(path, CHARACTERISTIC, Notifying=False)

    async def client_left(self, client: str) -> None:
        """A bus client is gone: its subscriptions end with it."""
        for path, attribute in list(self.attributes.items()):
            if client in attribute.subscribers:
                with contextlib.suppress(BluezError, KeyError):
                    await self.unsubscribe(path, client)

    async def publish(self, path: str, service: Any, mtu: int) -> None:
        service_path = f"{path}/service{service.handle:04x}"
        if service_path not in self._tree.objects:
            self._tree.add(service_path, {SERVICE: {"UUID": full_uuid(service.uuid), "Device": path, "Primary": True, "Includes": []}})
        for item in service.characteristics:
            item_path = f"{service_path}/char{item.handle - 1:04x}"  # bluetoothd names the declaration, not the value
            await item.discover_descriptors()
            flags = [name for bit, name in enumerate(GATT_FLAGS) if int(item.properties) >> bit & 1]
            values = {"UUID": full_uuid(item.uuid), "Service": service_path, "Value": b"", "Flags": flags, "MTU": mtu}
            if {"notify", "indicate"} & set(flags):
                values |= {"Notifying": False, "NotifyAcquired": False}
            if "write-without-response" in flags:
                values["WriteAcquired"] = False
            self.attributes[item_path] = Attribute(item, path)
            if item_path not in self._tree.objects:
                self._tree.add(item_path, {CHARACTERISTIC: values})
            for descriptor in item.descriptors:
                descriptor_path = f"{item_path}/desc{descriptor.handle:04x}"
                self.attributes[descriptor_path] = Attribute(descriptor, path)
                if descriptor_path not in self._tree.objects:
                    text = {"UUID": full_uuid(descriptor.type), "Characteristic": item_path, "Value": b"", "Flags": []}
                    self._tree.add(descriptor_path, {DESCRIPTOR: text})

    async def att(self, path: str, operation: Callable[[Any], Awaitable[Any]]) -> Any:
        attribute = self.attributes[path]
        for attempt in (1, 2):
            connection = self._connection_of(attribute.device)
            if connection is None:
                raise BluezError("Failed", "Not connected")
            try:
                return await operation(attribute.item)
            except ATT_Error as error:
                if attempt == 1 and error.error_code in NEEDS_ENCRYPTION and not connection.is_encrypted:
                    with contextlib.suppress(BluezError):
                        await self._pair(attribute.device)
                        continue
                raise att_error(error.error_code) from None
            except asyncio.CancelledError:
                raise BluezError("Failed", "Not connected") from None
        raise AssertionError("unreachable")

    async def subscribe(self, path: str, sender: str, *, by_socket: bool) -> tuple[socket.socket, int] | None:
        attribute = self.attributes[path]
        if not {"notify", "indicate"} & set(self._tree.objects[path][CHARACTERISTIC]["Flags"]):
            raise BluezError("NotSupported", "Operation is not supported")
        ours: socket.socket | None = None
        theirs: socket.socket | None = None
        if by_socket:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            attribute.sockets.append(ours)

        def heard(value: bytes) -> None:
            if ours is None:
                self._tree.set(path, CHARACTERISTIC, Value=bytes(value))
            else:
                with contextlib.suppress(OSError):
                    ours.send(bytes(value))

        attribute.subscribers.add(sender)
        attribute.callback = heard
        await self.att(path, lambda item: item.subscribe(heard))
        self._tree.set(path, CHARACTERISTIC, Notifying=True)
        return (theirs, int(self._tree.objects[path][CHARACTERISTIC]["MTU"])) if theirs is not None else None

    async def unsubscribe(self, path: str, sender: str) -> None:
        attribute = self.attributes[path]
        attribute.subscribers.discard(sender)
        if not attribute.subscribers:
            await self.att(path, lambda item: item.unsubscribe(attribute.callback))
            self._tree.set(path, CHARACTERISTIC, Notifying=False)
