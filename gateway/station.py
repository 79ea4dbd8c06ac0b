"""What the gateway knows of the person at the station: the check-in id, never who it is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from vitals import wire
from vitals.errors import BadInput


class Station:
    """The open check-in, by the backend's commands and until the time they said."""

    def __init__(self) -> None:
        self._checkin: str | None = None
        self._until = datetime.min.replace(tzinfo=UTC)

    def obey(self, command: dict[str, Any]) -> None:
        """{"command": "checkin", "checkin", "until"} or {"command": "checkout", "checkin"}; raises BadInput."""
        checkin = command.get("checkin")
        if command.get("command") not in ("checkin", "checkout") or not isinstance(checkin, str):
            raise BadInput("unknown_command")
        if command["command"] == "checkin":
            until = wire.parse_moment(str(command.get("until")))
            if until is None:
                raise BadInput("bad_time")
            self._checkin, self._until = checkin, until
        elif checkin == self._checkin:
            self._checkin = None

    def checkin(self, now: datetime) -> str | None:
        return self._checkin if now < self._until else None
