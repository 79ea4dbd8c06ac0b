"""What devices say to everyone: measurements in advertisements, and the facts by which a device introduces itself.

Anyone can repeat a broadcast. An encrypted one with a counter that does not rise is a replay and is refused; a plain
one with the packet id of the last is a repetition; beyond that a plain broadcast proves nothing, so its device is a
weak source.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from bleak import BleakClient
from bleak.exc import BleakError

from gateway.devices import Device
from gateway.store import Store
from gateway.translate import Frame
from vitals import gatt
from vitals.errors import DecodeError
from vitals.gatt.advertised import BTHOME_UUID, POLAR, BTHome
from vitals.gatt.device import Text

_SERVICE_DATA = {"bthome_v2_adv": BTHOME_UUID, "xiaomi_scale_v1_adv": 0x181D, "xiaomi_scale_v2_adv": 0x181B}
_SERIES = "broadcast"
_FACTS = {"maker": gatt.MAKER, "model": gatt.MODEL_NUMBER, "serial": gatt.SERIAL_NUMBER, "firmware": gatt.FIRMWARE}


def payload(protocol: str, service_data: Mapping[str, bytes], manufacturer_data: Mapping[int, bytes]) -> bytes | None:
    """The bytes of this protocol in an advertisement, None if it carries none."""
    number = _SERVICE_DATA.get(protocol)
    return manufacturer_data.get(POLAR) if number is None else service_data.get(gatt.uuid16(number))


def accept(store: Store, device: Device, frame: Frame) -> None:
    """Make a broadcast measurement durable once; what is a replay is kept as a refused frame."""
    number = None
    if frame.name == "bthome_v2_adv":
        with contextlib.suppress(DecodeError):
            value = BTHome.from_bytes(frame.data, device.key, device.address)
            if device.key is not None and value.counter is None:
                store.refuse(device, frame, "not_encrypted")
                return
            number = value.counter if value.counter is not None else value.packet_id()
            known = store.history(device.device, _SERIES)
            if known is not None and number is not None:
                if number == known[0] and known[1] == frame.data.hex():
                    return  # the same one, heard again after a restart
                if value.counter is not None and number <= known[0]:
                    store.refuse(device, frame, "replayed")
                    return
                if value.counter is None and number == known[0]:
                    return
    store.frames(device, [frame], None if number is None else (_SERIES, number, frame.data.hex()))


async def identity(client: BleakClient) -> dict[str, str]:
    """What the device says of itself in its Device Information; a serial number of zeros identifies nothing."""
    found = {}
    for name, uuid in _FACTS.items():
        if client.services.get_characteristic(uuid) is None:
            continue
        with contextlib.suppress(BleakError, DecodeError):
            text = Text.from_bytes(bytes(await client.read_gatt_char(uuid)))
            if text.meaningful():
                found[name] = plain(text.text)
    return found


def plain(text: str) -> str:
    """What a device calls itself, fit to be shown: printable and short."""
    return "".join(letter for letter in text if letter.isprintable())[:64]
