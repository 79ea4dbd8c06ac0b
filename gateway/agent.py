"""The pairing agent: BlueZ asks it for a passkey, it answers from the devices this gateway was told of, else refuses.

bleak has no interface for this, so org.bluez.Agent1 is exported with dbus-fast, which bleak brings along. It enters
passkeys and shows none ("KeyboardOnly"): a number that nobody compares would protect nothing.
"""

# no `from __future__ import annotations`: dbus-fast reads the signatures from the annotations

import logging
from collections.abc import Callable

from dbus_fast import BusType, DBusError, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface, method

log = logging.getLogger("gateway.agent")

PATH = "/yizhan/agent"
REJECTED = "org.bluez.Error.Rejected"


class Agent(ServiceInterface):
    """passkey: address → six digits, or None to refuse. `asked` keeps the addresses that were bonded with one."""

    def __init__(self, passkey: Callable[[str], int | None]) -> None:
        super().__init__("org.bluez.Agent1")
        self._passkey = passkey
        self._bus: MessageBus | None = None
        self.asked: set[str] = set()

    async def register(self) -> None:
        """Export the agent and make it BlueZ's default; raises OSError or DBusError where there is no BlueZ."""
        self._bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        self._bus.export(PATH, self)
        for member, signature, body in (("RegisterAgent", "os", [PATH, "KeyboardOnly"]), ("RequestDefaultAgent", "o", [PATH])):
            call = Message("org.bluez", "/org/bluez", "org.bluez.AgentManager1", member, signature=signature, body=body)
            reply = await self._bus.call(call)
            if reply is None or reply.message_type == MessageType.ERROR:
                raise DBusError(REJECTED, f"{member}: {reply.error_name if reply else 'no answer'}")

    def close(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()

    @method()
    def RequestPasskey(self, device: "o") -> "u":  # type: ignore[name-defined]  # noqa: F821, N802
        address = device.rpartition("/dev_")[2].replace("_", ":").upper()
        passkey = self._passkey(address)
        if passkey is None:
            log.warning("passkey asked and not known")
            raise DBusError(REJECTED, "no passkey for this device")
        self.asked.add(address)
        return passkey

    @method()
    def RequestConfirmation(self, device: "o", passkey: "u") -> None:  # type: ignore[name-defined]  # noqa: F821, N802
        raise DBusError(REJECTED, "nobody is here to compare numbers")

    @method()
    def RequestAuthorization(self, device: "o") -> None:  # type: ignore[name-defined]  # noqa: F821, N802
        raise DBusError(REJECTED, "nothing pairs with us by itself")

    @method()
    def AuthorizeService(self, device: "o", uuid: "s") -> None:  # type: ignore[name-defined]  # noqa: F821, N802
        raise DBusError(REJECTED, "we offer no services")

    @method()
    def Cancel(self) -> None:  # noqa: N802
        log.info("pairing cancelled")

    @method()
    def Release(self) -> None:  # noqa: N802
        log.info("agent released")
