"""A simulated radio that scales: bumble's link and controller with their simulator defects mended.

Measured with bumble 0.0.236 (each mended here, none by editing the library):
- `LocalLink` hands every advertisement to every controller, O(n²): ours goes to scanners and initiators only;
- cancelling a connection attempt left it pending for ever, so a timeout hung;
- the advertising interval was taken as milliseconds (the unit is 0.625 ms) and had no random delay;
- scan responses, non-connectable advertisements, RSSI and duplicate filtering were not modelled;
- a device that vanishes was never noticed: `SimLink.vanish` reports a supervision timeout (0x08) to its peers.

Not simulated: radio loss, channel timing, adapter firmware. Peripherals need random static addresses (top two
bits 1), because the controller always sends from its random address.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from bumble import hci, ll
from bumble.controller import Controller, LegacyAdvertiser
from bumble.link import LocalLink

_Report = hci.HCI_LE_Advertising_Report_Event
_ADVERTISING_UNIT = 0.000625  # seconds, Bluetooth Core vol 4 part E 7.8.5


class SimLink(LocalLink):  # type: ignore[misc]
    """The air between controllers; finds them by address and knows who listens."""

    def __init__(self) -> None:
        super().__init__()
        self.by_address: dict[bytes, Controller] = {}
        self.listeners: set[SimController] = set()

    def on_address_changed(self, controller: Controller) -> None:
        self.by_address = {key: known for key, known in self.by_address.items() if known is not controller}
        self.by_address[bytes(controller.random_address)] = controller

    def find_le_controller(self, address: hci.Address) -> Controller | None:
        found = self.by_address.get(bytes(address))
        return found if found in self.controllers else None

    def send_advertising_pdu(self, sender: Controller, packet: Any) -> None:
        if isinstance(packet, ll.ConnectInd):
            target = self.find_le_controller(packet.advertiser_address)
            if target is not None:
                asyncio.get_running_loop().call_soon(target.on_ll_advertising_pdu, packet)
            return
        if sender not in self.controllers:
            return  # out of range
        for listener in tuple(self.listeners):
            if listener is not sender:
                listener.hear(sender, packet)

    def vanish(self, controller: Controller) -> None:
        """Out of range or battery pulled: its peers see a supervision timeout."""
        self.controllers.discard(controller)
        self.listeners.discard(controller)
        self.by_address = {key: known for key, known in self.by_address.items() if known is not controller}
        for other in list(self.controllers):
            for connection in list(other.le_connections.values()):
                if connection.peer_address == controller.random_address:
                    other.on_le_disconnected(connection, hci.HCI_CONNECTION_TIMEOUT_ERROR)
        for connection in list(controller.le_connections.values()):
            controller.on_le_disconnected(connection, hci.HCI_CONNECTION_TIMEOUT_ERROR)

    def appear(self, controller: Controller) -> None:
        """Back on the air."""
        self.controllers.add(controller)
        self.on_address_changed(controller)


class SimController(Controller):  # type: ignore[misc]
    """A Bluetooth controller on a `SimLink`. rssi in dBm; connectable and scannable shape its advertisements."""

    rssi = -60
    connectable = True
    scannable = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # bleak's own suite does the same: these two change the advertising path the simulator models
        self.le_features &= ~(hci.LeFeatureMask.LL_PRIVACY | hci.LeFeatureMask.LE_EXTENDED_ADVERTISING)
        self.pending_le_connection: Any = None
        self._reported: set[tuple[bytes, bytes, bytes]] = set()
        self._active_scan = True

    def _listen_or_not(self) -> None:
        listening = self.le_scan_enable or self.pending_le_connection
        (self.link.listeners.add if listening else self.link.listeners.discard)(self)

    def on_hci_le_set_scan_parameters_command(self, command: Any) -> Any:
        self._active_scan = bool(command.le_scan_type)
        return super().on_hci_le_set_scan_parameters_command(command)

    def on_hci_le_set_scan_enable_command(self, command: Any) -> Any:
        result = super().on_hci_le_set_scan_enable_command(command)
        self._reported.clear()
        self._listen_or_not()
        return result

    def on_hci_le_create_connection_command(self, command: Any) -> Any:
        result = super().on_hci_le_create_connection_command(command)
        self._listen_or_not()
        return result

    def create_le_connection(self, address: hci.Address) -> None:
        super().create_le_connection(address)
        self._listen_or_not()

    def on_hci_le_create_connection_cancel_command(self, _command: Any) -> Any:
        pending, self.pending_le_connection = self.pending_le_connection, None
        self._listen_or_not()
        if pending is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_COMMAND_DISALLOWED_ERROR)
        complete = hci.HCI_LE_Connection_Complete_Event(
            status=hci.HCI_UNKNOWN_CONNECTION_IDENTIFIER_ERROR, connection_handle=0, role=0, peer_address_type=0,
            peer_address=pending.peer_address, connection_interval=0, peripheral_latency=0, supervision_timeout=0,
            central_clock_accuracy=0,
        )  # fmt: skip
        asyncio.get_running_loop().call_soon(self.send_hci_packet, complete)
        return hci.HCI_StatusReturnParameters(hci.HCI_SUCCESS)

    def hear(self, sender: Controller, packet: Any) -> None:
        """One advertisement on the air: report it if scanning, connect if it is the one we wait for."""
        address = packet.advertiser_address
        if self.le_scan_enable:
            response = bytes(sender.le_legacy_advertiser.scan_response_data)
            key = (bytes(address), bytes(packet.data), response)
            if not (self.filter_duplicates and key in self._reported):
                if self.filter_duplicates:
                    self._reported.add(key)
                kind = _Report.EventType
                shape = kind.ADV_IND if sender.connectable else kind.ADV_SCAN_IND if sender.scannable else kind.ADV_NONCONN_IND
                self._report(sender, address, shape, packet.data)
                if self._active_scan and sender.scannable:
                    self._report(sender, address, kind.SCAN_RSP, response)
        if sender.connectable and self.pending_le_connection and self.pending_le_connection.peer_address == address:
            self.create_le_connection(address)

    def _report(self, sender: Controller, address: hci.Address, shape: Any, data: bytes) -> None:
        report = _Report.Report(event_type=shape, address_type=address.address_type, address=address, data=data, rssi=sender.rssi)
        self.send_hci_packet(_Report([report]))


def _advertise_again(self: Any) -> None:
    self.send_advertising_data()
    delay = max(self.advertising_interval_min * _ADVERTISING_UNIT, 0.02) + random.random() * 0.01  # noqa: S311  advDelay
    self.timer_handle = asyncio.get_running_loop().call_later(delay, self._on_timer_fired)


LegacyAdvertiser._on_timer_fired = _advertise_again
