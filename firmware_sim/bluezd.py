"""A fake bluetoothd: org.bluez on a private D-Bus, its radio a simulated central.

With `DBUS_SYSTEM_BUS_ADDRESS` pointing at the private bus, the gateway's own BlueZ path runs byte for byte
unmodified: discovery, connection, pairing, GATT, notifications by signal or by file descriptor.
It reproduces what bleak and a gateway can notice: object paths built on the declaration handle, RSSI signalled
from 8 dB up, un-bonded devices forgotten some time after the scan ends, bluetoothd's mapping of ATT errors,
and pairing raised by the kernel when a value asks for encryption.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from bumble import hci
from bumble.att import ATT_Error
from bumble.device import Connection, Peer
from dbus_fast import BusType, ErrorType, Message, MessageType
from dbus_fast.aio import MessageBus

from firmware_sim.bluez import (
    ADAPTER,
    BLUEZ,
    DESCRIPTOR,
    DEVICE,
    OBJECTS,
    PROPERTIES,
    BluezError,
    ObjectTree,
    PatientSocket,
)  # fmt: skip
from firmware_sim.bluez_gatt import Gatt
from firmware_sim.central import MTU, Central, full_uuid, parse_advertisement

log = logging.getLogger("firmware_sim.bluezd")

RSSI_STEP = 8  # dB, bluetoothd's RSSI_THRESHOLD
FORGET_AFTER = 30.0  # s, bluetoothd's TemporaryTimeout
CONNECT_TIMEOUT = 20.0


@dataclass
class _Remote:
    """A device this adapter has seen."""

    address: hci.Address
    seen: float
    connection: Connection | None = None
    peer: Peer | None = None
    connecting: asyncio.Task[Connection] | None = None
    resolving: asyncio.Task[None] | None = None


class FakeBluez:
    """Serve org.bluez on the bus at `bus_address` until `stop`."""

    def __init__(self, central: Central, bus_address: str, adapter: str = "hci0") -> None:
        self._central = central
        self._bus = MessageBus(bus_type=BusType.SYSTEM, bus_address=bus_address, negotiate_unix_fd=True)
        self._adapter = f"/org/bluez/{adapter}"
        self._tree = ObjectTree(self._bus)
        self._remotes: dict[str, _Remote] = {}
        self._gatt = Gatt(self._tree, self._pair, lambda path: self._remotes[path].connection)
        self._scanners: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._agent: tuple[str, str] | None = None  # bus name and path
        self.scanned = asyncio.Event()  # somebody has begun to scan
        central.ask_passkey = self._ask_passkey

    async def start(self) -> None:
        await self._bus.connect()
        writer = self._bus._writer
        assert writer is not None
        writer.sock = PatientSocket(writer.sock)  # type: ignore[assignment]
        self._bus.add_message_handler(self._on_message)
        await self._watch_clients()
        self._tree.add("/org/bluez", {f"{BLUEZ}.AgentManager1": {}})
        address = self._central.device.random_address.to_string(False)
        self._tree.add(
            self._adapter,
            {
                ADAPTER: {
                    "Address": address, "AddressType": "public", "Name": "simulated", "Alias": "simulated", "Class": 0, "Powered": True,
                    "Discoverable": False, "Pairable": True, "Discovering": False, "UUIDs": [], "Roles": ["central", "peripheral"],
                }
            },
        )  # fmt: skip
        self._central.device.on("advertisement", self._heard)
        await self._bus.request_name(BLUEZ)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._bus.disconnect()

    async def _watch_clients(self) -> None:
        """Hear of clients that leave the bus: their discovery and their subscriptions end with them."""
        rule = "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged'"
        await self._bus.call(
            Message(
                destination="org.freedesktop.DBus", path="/org/freedesktop/DBus", interface="org.freedesktop.DBus", member="AddMatch",
                signature="s", body=[rule],
            )
        )  # fmt: skip

    async def _ask_passkey(self, address: str) -> int | None:
        """Ask the registered agent; a refusal, or no agent, is None."""
        if self._agent is None:
            return None
        call = Message(
            destination=self._agent[0], path=self._agent[1], interface=f"{BLUEZ}.Agent1", member="RequestPasskey", signature="o",
            body=[f"{self._adapter}/dev_{address.replace(':', '_')}"],
        )  # fmt: skip
        reply = await self._bus.call(call)
        return int(reply.body[0]) if reply is not None and reply.message_type == MessageType.METHOD_RETURN else None

    async def _client_left(self, client: str) -> None:
        if self._agent is not None and self._agent[0] == client:
            self._agent = None
        if client in self._scanners:
            await self._stop_discovery(client)
        await self._gatt.client_left(client)

    # discovery

    def _heard(self, advertisement: Any) -> None:
        if not self._scanners:
            return
        address = advertisement.address.to_string(False)
        path = f"{self._adapter}/dev_{address.replace(':', '_')}"
        data = parse_advertisement(advertisement)
        values: dict[str, Any] = {"RSSI": data.rssi}
        if data.local_name:
            values |= {"Name": data.local_name, "Alias": data.local_name}
        if data.tx_power is not None:
            values["TxPower"] = data.tx_power
        if data.manufacturer_data:
            values["ManufacturerData"] = data.manufacturer_data
        if data.service_data:
            values["ServiceData"] = data.service_data
        if path not in self._remotes:
            self._remotes[path] = _Remote(advertisement.address, time.monotonic())
            bonded = address in self._central.bonded()
            known = {
                "Address": address, "AddressType": "random", "Alias": address.replace(":", "-"), "Paired": bonded, "Bonded": bonded,
                "Trusted": False, "Blocked": False, "LegacyPairing": False, "Connected": False, "UUIDs": data.service_uuids,
                "Adapter": self._adapter, "ServicesResolved": False,
            }  # fmt: skip
            self._tree.add(path, {DEVICE: known | values})
            return
        self._remotes[path].seen = time.monotonic()
        current = self._tree.objects[path][DEVICE]
        if data.service_uuids:
            values["UUIDs"] = sorted(set(current["UUIDs"]) | set(data.service_uuids))
        if "RSSI" in current and abs(current["RSSI"] - data.rssi) < RSSI_STEP:
            del values["RSSI"]
        self._tree.set(path, DEVICE, **values)

    async def _start_discovery(self, sender: str) -> None:
        if sender in self._scanners:
            raise BluezError("InProgress")
        self._scanners.add(sender)
        self.scanned.set()
        if len(self._scanners) == 1:
            await self._central.device.start_scanning(active=True, filter_duplicates=False)
            self._tree.set(self._adapter, ADAPTER, Discovering=True)

    async def _stop_discovery(self, sender: str) -> None:
        if sender not in self._scanners:
            raise BluezError("Failed", "No discovery started")
        self._scanners.discard(sender)
        if self._scanners:
            return
        await self._central.device.stop_scanning()
        for path in self._remotes:
            self._tree.set(path, DEVICE, invalidate=("RSSI", "TxPower"))
        self._tree.set(self._adapter, ADAPTER, Discovering=False)
        asyncio.get_running_loop().call_later(FORGET_AFTER, self._forget_temporary)

    def _forget_temporary(self) -> None:
        if self._scanners:
            return
        for path in list(self._remotes):
            state = self._tree.objects[path][DEVICE]
            if not (state["Connected"] or state["Paired"] or state["Trusted"]):
                self._remove(path)

    def _remove(self, path: str) -> None:
        for child in self._tree.children(path):
            self._gatt.drop(child)
        self._remotes.pop(path, None)
        self._gatt.drop(path)

    # connections and bonds

    async def _connect(self, path: str) -> None:
        remote = self._remotes[path]
        if remote.connection is not None:
            return
        if remote.connecting is not None:
            raise BluezError("InProgress", "Operation already in progress")
        remote.connecting = asyncio.ensure_future(self._central.connect(remote.address, CONNECT_TIMEOUT))
        try:
            connection = await remote.connecting
        except (TimeoutError, asyncio.CancelledError):
            raise BluezError("Failed", "le-connection-abort-by-local") from None
        except Exception as error:  # noqa: BLE001  whatever the simulated link does, a bus client gets an answer
            raise BluezError("Failed", f"le-connection-unknown {type(error).__name__}") from None
        finally:
            remote.connecting = None
        remote.connection, remote.peer = connection, Peer(connection)
        connection.on("disconnection", lambda _reason: self._disconnected(path))
        self._tree.set(path, DEVICE, Connected=True)
        remote.resolving = asyncio.ensure_future(self._resolve(path))

    def _disconnected(self, path: str) -> None:
        remote = self._remotes.get(path)
        if remote is None:
            return
        remote.connection = None
        if remote.resolving is not None:
            remote.resolving.cancel()
        self._gatt.lost(path)
        self._tree.set(path, DEVICE, ServicesResolved=False, Connected=False)
        if not self._tree.objects[path][DEVICE]["Paired"]:
            for child in self._tree.children(path):
                self._gatt.drop(child)

    async def _resolve(self, path: str) -> None:
        remote = self._remotes[path]
        connection, peer = remote.connection, remote.peer
        if connection is None or peer is None:
            return
        with contextlib.suppress(asyncio.CancelledError, ATT_Error, TimeoutError, hci.HCI_Error):
            if connection.peer_address.to_string(False) in self._central.bonded() and not await self._encrypted(connection):
                await connection.disconnect(hci.HCI_AUTHENTICATION_FAILURE_ERROR)  # the device has lost its key
                return
            await peer.request_mtu(MTU)
            await peer.discover_services()
            uuids = []
            for service in peer.services:
                uuids.append(full_uuid(service.uuid))
                await service.discover_characteristics()
                await self._gatt.publish(path, service, connection.att_mtu)
            self._tree.set(path, DEVICE, UUIDs=sorted(set(self._tree.objects[path][DEVICE]["UUIDs"]) | set(uuids)), ServicesResolved=True)

    @staticmethod
    async def _encrypted(connection: Connection) -> bool:
        try:
            await connection.encrypt()
        except hci.HCI_Error:
            return False
        return True

    async def _pair(self, path: str) -> None:
        if self._tree.objects[path][DEVICE]["Paired"]:
            raise BluezError("AlreadyExists", "Already Exists")
        await self._connect(path)
        connection = self._remotes[path].connection
        try:
            if connection is None:
                raise BluezError("AuthenticationFailed", "Authentication Failed")
            await connection.pair()
        except asyncio.CancelledError:
            raise BluezError("AuthenticationCanceled", "Authentication Canceled") from None
        except Exception:  # noqa: BLE001  bumble has many ways to refuse a pairing, BlueZ has one
            raise BluezError("AuthenticationFailed", "Authentication Failed") from None
        self._tree.set(path, DEVICE, Paired=True, Bonded=True)

    # D-Bus

    def _on_message(self, message: Message) -> bool | None:
        if message.message_type == MessageType.SIGNAL and message.member == "NameOwnerChanged" and not message.body[2]:
            self._spawn(self._client_left(message.body[0]))
            return None
        if message.message_type != MessageType.METHOD_CALL or message.path is None:
            return None
        if message.path != "/" and not message.path.startswith("/org/bluez"):
            return None
        if message.interface not in (PROPERTIES, OBJECTS) and not (message.interface or "").startswith(BLUEZ):
            return None
        self._spawn(self._answer(message))
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Message) -> None:
        try:
            signature, body, handles = await self._call(message)
        except BluezError as error:
            self._bus.send(Message.new_error(message, error.name, error.text))
            return
        except KeyError:
            self._bus.send(Message.new_error(message, ErrorType.UNKNOWN_OBJECT, f"no object {message.path}"))
            return
        except Exception as error:
            log.exception("call failed", extra={"member": message.member})
            self._bus.send(Message.new_error(message, f"{BLUEZ}.Error.Failed", type(error).__name__))
            return
        reply = Message.new_method_return(message, signature, body)
        reply.unix_fds = [handle.fileno() for handle in handles]
        await self._bus.send(reply)
        for handle in handles:
            handle.close()

    async def _call(self, message: Message) -> tuple[str, list[Any], list[socket.socket]]:
        path, body, sender = str(message.path), message.body, str(message.sender)
        nothing: tuple[str, list[Any], list[socket.socket]] = ("", [], [])
        if message.interface == OBJECTS:
            tree = {
                where: {name: self._tree.variants(values) for name, values in found.items()} for where, found in self._tree.objects.items()
            }
            return "a{oa{sa{sv}}}", [tree], []
        found = self._tree.objects[path]
        if message.interface == PROPERTIES:
            if message.member == "GetAll":
                return "a{sv}", [self._tree.variants(found[body[0]])], []
            if message.member == "Get":
                return "v", [self._tree.variants({body[1]: found[body[0]][body[1]]})[body[1]]], []
            self._tree.set(path, body[0], **{body[1]: body[2].value})
            return nothing
        match message.member:
            case "RegisterAgent":
                self._agent = (sender, str(body[0]))
            case "UnregisterAgent":
                self._agent = None
            case "RequestDefaultAgent" | "SetDiscoveryFilter":
                pass
            case "StartDiscovery":
                await self._start_discovery(sender)
            case "StopDiscovery":
                await self._stop_discovery(sender)
            case "RemoveDevice":
                await self._remove_device(body[0])
            case "Connect":
                await self._connect(path)
            case "Disconnect":
                remote = self._remotes[path]
                if remote.connecting is not None:
                    remote.connecting.cancel()
                if remote.connection is not None:
                    await remote.connection.disconnect()
            case "Pair":
                await self._pair(path)
            case "ReadValue":
                value = bytes(await self._gatt.att(path, lambda item: item.read_value()))
                self._tree.set(path, str(message.interface), Value=value)
                return "ay", [value], []
            case "WriteValue":
                kind = body[1].get("type")
                respond = kind is None or kind.value != "command" or message.interface == DESCRIPTOR
                await self._gatt.att(path, lambda item: item.write_value(bytes(body[0]), with_response=respond))
            case "StartNotify":
                await self._gatt.subscribe(path, sender, by_socket=False)
            case "AcquireNotify":
                acquired = await self._gatt.subscribe(path, sender, by_socket=True)
                if acquired is not None:
                    return "hq", [0, acquired[1]], [acquired[0]]
            case "StopNotify":
                await self._gatt.unsubscribe(path, sender)
            case other:
                raise BluezError("NotSupported", str(other))
        return nothing

    async def _remove_device(self, path: str) -> None:
        remote = self._remotes.get(path)
        if remote is None:
            raise BluezError("DoesNotExist", "Does Not Exist")
        if remote.connection is not None:
            await remote.connection.disconnect()
        await self._central.forget(remote.address)
        self._remove(path)
