"""Pairing on command: the backend asks, the gateway bonds and answers what it found; the list of devices is kept on disk.

    {"command": "pair", "id", "device", "address", "kind", "setting", "model"?, "passkey"?, "user"?, "consent"?, "users"?, "bind_key"?}
    {"command": "unpair", "id", "device"} · {"command": "discover", "id", "seconds"?}

A command may come twice: a device that is bonded already answers at once. How good the bond is decides whether the
device may be trusted: `authenticated` when a passkey was entered, `unauthenticated` when the two just agreed (anyone
in the middle could have, too), `none` for a broadcast or a device that does not bond.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from bleak.exc import BleakError

from gateway import devices
from gateway.broadcast import plain
from gateway.devices import Device
from gateway.radio import Radio
from gateway.spool import Spool
from gateway.station import Station
from vitals import device_model
from vitals.errors import BadInput, ConfigError
from vitals.wire import PairingReport

log = logging.getLogger("gateway.pairing")

SECONDS = 60.0
LONGEST = 300.0


class Pairing:
    """known: address → device, shared with the radio. report: where answers go. asked: addresses bonded with a passkey."""

    def __init__(self, known: dict[str, Device], file: Path, radio: Radio, spool: Spool, report: Callable[[PairingReport], None]) -> None:
        self._known, self._file, self._radio, self._spool, self._report = known, file, radio, spool, report
        self._pending: dict[str, Device] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked: set[str] = set()

    def passkey(self, address: str) -> int | None:
        """The six digits of a device that is being paired or was told to us, for the agent."""
        device = self._pending.get(address) or self._known.get(address)
        return None if device is None else device.passkey

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def lost(self, device: Device) -> None:
        """Tell that a device seems to know us no more; it is not paired again without a person."""
        self._report(PairingReport(f"lost-{secrets.token_hex(6)}", "bond_lost", device=device.device))

    def obey(self, command: dict[str, Any]) -> None:
        """Begin; the answer comes later as a report. Raises BadInput for a command that makes no sense."""
        name, seconds = str(command.get("id", ""))[:64], command.get("seconds", SECONDS)
        if not name or isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST:
            raise BadInput("bad_command")
        match command["command"]:
            case "pair":
                row = {key: value for key, value in command.items() if key not in ("command", "id", "seconds") and value is not None}
                try:
                    device = devices.device(row, "pair")
                except ConfigError as error:
                    self._report(PairingReport(name, "failed", device=str(row.get("device", ""))[:64], reason=error.problems[0][:200]))
                    return
                work = self._pair(name, device, float(seconds))
            case "unpair":
                work = self._unpair(name, str(command.get("device", "")))
            case _:
                work = self._discover(name, min(float(seconds), 30.0))
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pair(self, name: str, device: Device, seconds: float) -> None:
        taken = [one for one in self._known.values() if one.address != device.address and one.names() & device.names()]
        if taken:
            self._report(PairingReport(name, "failed", device=device.device, reason="name_taken"))
            return
        before = self._known.get(device.address)
        if before is not None and before.bond and replace(device, bond=before.bond) == before:
            self._report(PairingReport(name, "paired", device=device.device, bond=_BONDS[before.bond], model=device.model.name))
            return
        if before is None:
            self.asked.discard(device.address)
        protocol = device.model.protocol or ""
        facts: dict[str, str] = {}
        self._pending[device.address] = device
        try:
            if protocol.endswith("_adv"):
                found, advertisement = await self._radio.seek(device.address, seconds)
                facts = {"name": plain(advertisement.local_name or found.name or "")}
            else:
                facts = await self._radio.bond(device, seconds)
        except (BleakError, TimeoutError, OSError, EOFError) as error:
            reason = "not_found" if isinstance(error, TimeoutError) else _reason(error)
            self._report(PairingReport(name, "failed", device=device.device, reason=reason))
            return
        finally:
            self._pending.pop(device.address, None)
        quality = self._quality(device, before)
        self._known[device.address] = replace(device, bond=quality)
        self._write()
        log.info("paired", extra={"device": device.device, "bond": quality})
        self._report(PairingReport(name, "paired", device=device.device, bond=quality, model=device.model.name, facts=facts))

    def _quality(self, device: Device, before: Device | None) -> Literal["authenticated", "unauthenticated", "none"]:
        """A host that holds a bond is not asked for the passkey again: what the bond was worth stays."""
        if device.model.bond == "none" or (device.model.protocol or "").endswith("_adv"):
            return "none"
        kept = before is not None and before.bond == "authenticated"
        return "authenticated" if kept or device.address in self.asked else "unauthenticated"

    async def _unpair(self, name: str, named: str) -> None:
        device = next((one for one in self._known.values() if one.device == named), None)
        if device is None:
            self._report(PairingReport(name, "unpaired", device=named[:64], reason="unknown_device"))
            return
        del self._known[device.address]
        self._write()
        self._spool.forget(device.device)
        self.asked.discard(device.address)
        try:
            await self._radio.unbond(device.address)
        except (OSError, EOFError) as error:
            self._report(PairingReport(name, "failed", device=device.device, reason=_reason(error)))
            return
        self._report(PairingReport(name, "unpaired", device=device.device))

    async def _discover(self, name: str, seconds: float) -> None:
        found = await self._radio.listen(seconds)
        rows = []
        for address, advertisement in sorted(found.items(), key=lambda item: -item[1].rssi):
            model = device_model.recognise(advertisement.local_name, advertisement.manufacturer_data)
            kind = model.kind if model is not None else broadcast_kind(advertisement.service_uuids)
            if kind is not None and address not in self._known:
                words = {
                    "address": address,
                    "name": plain(advertisement.local_name or ""),
                    "kind": kind,
                    "model": model.name if model else "",
                }
                rows.append(words)
        self._report(PairingReport(name, "found", found=tuple(rows[:50])))

    def _write(self) -> None:
        devices.write(self._file, self._known.values())


_BONDS: dict[str, Literal["authenticated", "unauthenticated", "none"]] = {
    "authenticated": "authenticated", "unauthenticated": "unauthenticated", "none": "none",
}  # fmt: skip
_KINDS = {
    0x1810: "blood_pressure", 0x1808: "glucose", 0x181F: "cgm", 0x180D: "heart_rate", 0x1822: "pulse_oximetry", 0x1809: "temperature",
    0x181D: "weight", 0x181B: "weight", 0x183E: "activity",
}  # fmt: skip


def broadcast_kind(service_uuids: list[str]) -> str | None:
    """What a device of unknown model measures, by the services it advertises."""
    return next(
        (kind for number, kind in _KINDS.items() if any(uuid.lower().startswith(f"0000{number:04x}-") for uuid in service_uuids)), None
    )


def _reason(error: Exception) -> str:
    text = str(error).lower()
    if "authentication" in text or "pairing failed" in text:
        return "authentication_failed"
    return type(error).__name__[:64]


class Commands:
    """What the backend may ask of a gateway."""

    def __init__(self, station: Station, pairing: Pairing) -> None:
        self._station, self._pairing = station, pairing

    def obey(self, command: dict[str, Any]) -> None:
        """Raises BadInput for a command that is none."""
        if command.get("command") in ("pair", "unpair", "discover"):
            self._pairing.obey(command)
        else:
            self._station.obey(command)
