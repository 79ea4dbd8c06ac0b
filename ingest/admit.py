"""Admission: one message as it came → measurements to store, or the reason why its bytes go to quarantine. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime

from ingest.batch import Incoming
from vitals import wire
from vitals.errors import BadInput
from vitals.measurement import Measurement
from vitals.wire import Gap, PairingReport, Tally

INTAKE = "intake"  # topic of what stands for an intake row (ingest.stream)


@dataclass(slots=True)
class Admitted:
    """What became of one message. gateway, site: of its topic. refusal: (reason, detail) when it is for quarantine.

    receipt: (boot, seq) to answer with, if they could be read. online: what a status said, None if it is none.
    wanted is False for messages that are not readings.
    """

    item: Incoming
    site: str = ""
    gateway: str = ""
    receipt: tuple[str, int] | None = None
    measurements: tuple[Measurement, ...] = ()
    gaps: tuple[Gap, ...] = ()
    tallies: tuple[Tally, ...] = ()
    day: date | None = None
    pairing: PairingReport | None = None
    sent_at: datetime | None = None
    online: bool | None = None
    refusal: tuple[str, str] | None = None
    wanted: bool = True
    unknown_devices: list[str] = field(default_factory=list)


def admit(item: Incoming, now: datetime) -> Admitted:
    """Judge one message; never raises. The broker's retain flag means nothing here."""
    result = Admitted(item)
    if item.topic == INTAKE:
        result.wanted = False
        return result
    try:
        topic = wire.parse_topic(item.topic)
        result.site, result.gateway = topic.site, topic.gateway
        if topic.way == "up" and topic.what == "status":
            result.wanted = False
            result.online = wire.is_online(item.payload)
            return result
        if topic.way != "up":
            result.wanted = False
            return result
        if topic.what == "pairing":
            result.pairing = wire.decode_pairing(item.payload)
            return result
        message = wire.decode_message(item.payload, now)
    except BadInput as error:
        result.refusal = (error.reason, error.detail)
        result.receipt = wire.receipt_hint(item.payload)
        return result
    result.receipt = (message.boot, message.seq)
    result.measurements = message.measurements
    result.gaps, result.tallies, result.day = message.gaps, message.tallies, message.day
    result.sent_at = message.sent_at
    return result
