"""Topics and payloads, version 1, built and parsed here and nowhere else.

    yz/1/{site}/{gateway}/up/readings   gateway → backend   `Message`
    yz/1/{site}/{gateway}/up/status     retained, last will `{"state": "online" | "offline", …}`
    yz/1/{site}/{gateway}/up/pairing    gateway → backend
    yz/1/{site}/{gateway}/down/receipt  backend → gateway   `Receipt`
    yz/1/{site}/{gateway}/down/command · …/down/advice

A message says on which day (UTC) its gateway spooled it, and at the end of a day what that day held (`tallies`), so that both sides can
compare their books; a spool that had to drop something tells what (`gaps`). Dense series of a wearable travel as `samples`.

Decoding is pure and total: bytes → `Message`, or `BadInput` with a stable reason. A wrong *clock* is never a
reason to refuse: a time that is a time but cannot be right is marked `untrusted` and measured_at becomes
received_at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from vitals.errors import BadInput
from vitals.measurement import (
    NAME,
    Filled,
    Flags,
    Hex,
    Kind,
    Measurement,
    Moment,
    Name,
    Record,
    Samples,
    Setting,
    Text,
    TimeQuality,
    telling,
)
from vitals.metric import CODED, METRICS

VERSION = 1
ROOT = f"yz/{VERSION}"
MAX_PAYLOAD = 256 * 1024
MAX_MEASUREMENTS = 1000
SKEW = timedelta(minutes=5)
EARLIEST = datetime(2015, 1, 1, tzinfo=UTC)  # no device of ours was made before

UP = ("readings", "status", "pairing")
DOWN = ("receipt", "command", "advice")
_NAME = re.compile(NAME)


class Topic(NamedTuple):
    """A parsed topic: whose it is, which way it goes ("up" or "down") and what it carries."""

    site: str
    gateway: str
    way: str
    what: str

    def __str__(self) -> str:
        return f"{ROOT}/{self.site}/{self.gateway}/{self.way}/{self.what}"


def valid_name(name: str) -> bool:
    """Whether a site, gateway or device name may appear in a topic or credential: no wildcard, slash or space."""
    return _NAME.fullmatch(name) is not None


def topic(site: str, gateway: str, way: str, what: str) -> str:
    """Build a topic; raises BadInput `bad_name` rather than build one that means something else."""
    if not (valid_name(site) and valid_name(gateway)) or what not in (UP if way == "up" else DOWN):
        raise BadInput("bad_name", "site, gateway and subject must be plain names")
    return str(Topic(site, gateway, way, what))


@lru_cache(4096)
def parse_topic(text: str) -> Topic:
    """Parse a topic; raises BadInput `bad_topic`."""
    parts = text.split("/")
    if len(parts) == 6 and "/".join(parts[:2]) == ROOT:
        found = Topic(*parts[2:])
        if valid_name(found.site) and valid_name(found.gateway) and found.what in {"up": UP, "down": DOWN}.get(found.way, ()):
            return found
    raise BadInput("bad_topic")


Seq = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _WireMeasurement(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    device: Name
    kind: Kind
    record: Record
    measured_at: Text
    received_at: Text
    series: Filled = "1"
    device_time: Text | None = None
    time_quality: TimeQuality = "untrusted"
    setting: Setting = "home"
    checkin: Filled | None = None
    values: dict[Text, int | float | Text] = {}
    codes: dict[Text, Text] = {}
    flags: Flags = []
    identity: str = "device"
    raw: Hex = ""
    samples: dict[Text, Samples] = {}


class Gap(msgspec.Struct, frozen=True):
    """What a full spool had to drop: inclusive ranges of seq of one boot, why, and how much they were worth."""

    boot: Name
    lost: Annotated[tuple[tuple[Seq, Seq], ...], msgspec.Meta(min_length=1)]
    reason: Text
    worth: Text


Day = Annotated[str, msgspec.Meta(pattern=r"\A\d{4}-\d{2}-\d{2}\Z")]


class Tally(msgspec.Struct, frozen=True):
    """What one life of a spool took in on one day (UTC): its first and last number, how many, and the sum of their digests."""

    day: Day
    boot: Name
    first: Seq
    last: Seq
    messages: Seq
    digest: Seq


class _WireMessage(msgspec.Struct, kw_only=True, omit_defaults=True):
    v: int
    boot: Name
    seq: Seq
    sent_at: Text | None = None
    day: Day | None = None
    measurements: Annotated[list[_WireMeasurement], msgspec.Meta(max_length=MAX_MEASUREMENTS)]
    gaps: Annotated[tuple[Gap, ...], msgspec.Meta(max_length=100)] = ()
    tallies: Annotated[tuple[Tally, ...], msgspec.Meta(max_length=100)] = ()


class _Canonical(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The message as `encode_message` writes it: every time in UTC, every number with its point."""

    v: int
    boot: Name
    seq: Seq
    sent_at: Moment | None = None
    day: Day | None = None
    measurements: Annotated[list[Measurement], msgspec.Meta(max_length=MAX_MEASUREMENTS)]
    gaps: Annotated[tuple[Gap, ...], msgspec.Meta(max_length=100)] = ()
    tallies: Annotated[tuple[Tally, ...], msgspec.Meta(max_length=100)] = ()


class Message(NamedTuple):
    """One admitted payload of up/readings. boot and seq serve receipts only; sent_at is the gateway's clock.

    day: on which the gateway spooled it (UTC), for its books; tallies: what it says of days that are over.
    """

    boot: str
    seq: int
    sent_at: datetime | None
    measurements: tuple[Measurement, ...]
    gaps: tuple[Gap, ...] = ()
    tallies: tuple[Tally, ...] = ()
    day: date | None = None


def boot_name(generation: int, random_hex: str) -> str:
    """The name of one life of a spool. Two lives of one gateway with the same generation: its disk was copied or set back."""
    return f"{generation:06d}-{random_hex}"


def generation_of(boot: str) -> int | None:
    """The number in a boot's name, None in one of another form."""
    head, _, tail = boot.partition("-")
    return int(head) if tail and head.isascii() and head.isdecimal() and len(head) < 10 else None


_canonical, _decoder, _encoder = msgspec.json.Decoder(_Canonical), msgspec.json.Decoder(_WireMessage), msgspec.json.Encoder()
_ENCODABLE = {code: metric.encodable for code, metric in METRICS.items()}
_NEVER = datetime.min.replace(tzinfo=UTC)  # stands for a time that cannot be relied on
_day = lru_cache(64)(date.fromisoformat)


def _no_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadInput("duplicate_key")
    return found


_MOMENT = re.compile(r"[+-]?(\d{4,})-(\d{2}-\d{2})[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?")


def parse_moment(text: str) -> datetime | None:
    """An aware UTC time, or None for one that has the form but cannot be relied on (no zone, second 60, year 58000).

    Raises BadInput `bad_time` for text that is no time at all, or a day that no calendar has.
    """
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise BadInput("bad_time")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            datetime.fromisoformat(f"{min(int(found[1]), 9999):04d}-{found[2]}")
        except ValueError:
            raise BadInput("bad_time", "no such day") from None
        return None
    if moment.tzinfo is None:
        return None
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return None


@lru_cache(4096)
def _moment(text: str) -> datetime | None:
    """`parse_moment`, with the forms that gateways send taken at once; remembered, because times of a batch repeat."""
    if len(text) in (20, 24, 27) and text[-1] == "Z" and text[10] == "T" and text[4] == text[7] == "-" and text[13] == text[16] == ":":
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            return parse_moment(text)
    return parse_moment(text)


def _loose(wire: _WireMeasurement) -> Measurement:
    """A measurement as somebody else's encoder wrote it: whole numbers, times with an offset or none that can be relied on."""
    return Measurement(
        device=wire.device, kind=wire.kind, record=wire.record, measured_at=_moment(wire.measured_at) or _NEVER,
        received_at=_moment(wire.received_at) or _NEVER, series=wire.series, device_time=wire.device_time, time_quality=wire.time_quality,
        setting=wire.setting, checkin=wire.checkin,
        values={code: value if isinstance(value, str) else float(value) for code, value in wire.values.items()},
        codes=dict(wire.codes), flags=list(wire.flags), identity="gateway" if wire.identity == "gateway" else "device", raw=wire.raw,
        samples=wire.samples,
    )  # fmt: skip


def _checked(measurement: Measurement, now: datetime, latest: datetime) -> Measurement:
    """The measurement with times that can be used. Raises BadInput about what it says it measured."""
    values = measurement.values
    for code, value in values.items():
        bounds = _ENCODABLE.get(code)
        if bounds is None or isinstance(value, str):
            _check_answer(code, value)
        elif not bounds[0] <= value <= bounds[1]:
            raise BadInput("impossible_value", code)
    if measurement.samples:
        for code, samples in measurement.samples.items():
            _check_samples(code, samples)
            if METRICS[code].priority_low is not None or METRICS[code].priority_high is not None:
                values.setdefault(code, telling(code, samples.values))
    if measurement.codes:
        if unknown := [code for code in measurement.codes if code not in METRICS and code not in CODED]:
            raise BadInput("unknown_metric", unknown[0])
    elif not values and not measurement.samples:
        raise BadInput("no_values")
    received, measured = measurement.received_at, measurement.measured_at
    if measurement.time_quality != "untrusted" and EARLIEST <= measured <= latest and EARLIEST <= received <= latest:
        return measurement
    quality: TimeQuality = measurement.time_quality
    if not EARLIEST <= received <= latest:
        received, quality = now, "untrusted"  # the gateway's own clock is wrong
    if not EARLIEST <= measured <= latest:
        quality = "untrusted"
    if quality == "untrusted":
        measured = received
    return msgspec.structs.replace(measurement, measured_at=measured, received_at=received, time_quality=quality)


def _check_answer(code: str, value: float | str) -> None:
    """Raises BadInput `unknown_metric`, `not_a_number` or `unknown_answer` unless this is a coded answer that exists."""
    if not isinstance(value, str) or (code not in METRICS and code not in CODED):
        raise BadInput("unknown_metric", code)
    if code not in CODED:
        raise BadInput("not_a_number", code)
    if value not in CODED[code]:
        raise BadInput("unknown_answer", code)


def _check_samples(code: str, samples: Samples) -> None:
    """Raises BadInput `unknown_metric`, `impossible_value` or `bad_samples`."""
    if code not in METRICS:
        raise BadInput("unknown_metric", code)
    if (samples.every_ms is None) == (not samples.offsets_ms) or len(samples.offsets_ms) not in (0, len(samples.values)):
        raise BadInput("bad_samples", "one of every_ms and offsets_ms, as many as there are values")
    low, high = METRICS[code].encodable
    if not (low <= min(samples.values) and max(samples.values) <= high):
        raise BadInput("impossible_value", code)


def decode_message(payload: bytes, now: datetime) -> Message:
    """Decode a payload of up/readings; `now` is the backend's clock, against which impossible times are judged.

    Raises BadInput with one of: oversized, not_json, duplicate_key, no_version, unknown_version, bad_schema,
    bad_text, bad_time, bad_samples, no_values, unknown_metric, unknown_answer, not_a_number, impossible_value.
    """
    if len(payload) > MAX_PAYLOAD:
        raise BadInput("oversized", f"{len(payload)} bytes")
    wire = _decode(payload)
    if wire.v != VERSION:
        raise BadInput("unknown_version", str(wire.v)[:16])
    if b"\\u0000" in payload:
        raise BadInput("bad_text", "NUL")
    if not wire.measurements and not wire.gaps and not wire.tallies:
        raise BadInput("bad_schema", "neither measurements nor gaps")
    try:
        day = _day(wire.day) if wire.day is not None else None
        for tally in wire.tallies:
            date.fromisoformat(tally.day)
    except ValueError:
        raise BadInput("bad_time", "no such day") from None
    sent = parse_moment(wire.sent_at) if isinstance(wire.sent_at, str) else wire.sent_at
    latest = now + SKEW
    measurements = tuple([_checked(m if isinstance(m, Measurement) else _loose(m), now, latest) for m in wire.measurements])
    return Message(wire.boot, wire.seq, sent, measurements, wire.gaps, wire.tallies, day)


def _decode(payload: bytes) -> _Canonical | _WireMessage:
    """The typed message; refuses duplicate keys, which the typed decoder would pass over.

    What our own gateways send encodes again to the very same bytes, and then no key can be there twice and no object needs to be made
    anew; everything else is read by a parser that looks (measured: 2.0 µs more for each measurement).
    """
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        canonical = _canonical.decode(payload)
        if _encoder.encode(canonical) == payload and all(map(_in_utc, canonical.measurements)):
            return canonical
    document: Any = None
    try:
        document = json.loads(payload, object_pairs_hook=_no_duplicate_keys, parse_constant=_refuse_constant)
        return _decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise _schema_problem(document, error) from None
    except (ValueError, RecursionError, msgspec.MsgspecError):
        raise BadInput("not_json") from None


def _in_utc(measurement: Measurement) -> bool:
    return measurement.measured_at.tzinfo is UTC and measurement.received_at.tzinfo is UTC


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _schema_problem(document: Any, error: msgspec.ValidationError) -> BadInput:
    if isinstance(document, dict):
        if "v" not in document:
            return BadInput("no_version")
        if isinstance(document["v"], int) and document["v"] != VERSION:
            return BadInput("unknown_version", str(document["v"])[:16])
    return BadInput("bad_schema", str(error)[:200])


def receipt_hint(payload: bytes) -> tuple[str, int] | None:
    """(boot, seq) of a payload that was refused, if they can be read, so that its sender may be told."""
    try:
        document = json.loads(payload[:MAX_PAYLOAD])
        boot, seq = document["boot"], document["seq"]
    except (ValueError, KeyError, TypeError, RecursionError, IndexError):
        return None
    if isinstance(boot, str) and valid_name(boot) and isinstance(seq, int) and not isinstance(seq, bool) and 0 <= seq <= 2**53:
        return boot, seq
    return None


def text_of(moment: datetime) -> str:
    """Aware time → RFC 3339 in UTC with microseconds."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def encode_measurement(measurement: Measurement) -> bytes:
    """One measurement as the JSON object that `encode_message` wraps; this is what a spool keeps."""
    if not _in_utc(measurement):
        measured, received = measurement.measured_at.astimezone(UTC), measurement.received_at.astimezone(UTC)
        measurement = msgspec.structs.replace(measurement, measured_at=measured, received_at=received)
    return _encoder.encode(measurement)


_GAP, _TALLY = b'{"boot":', b'{"day":'  # a measurement begins with its device


def encode_gap(gap: Gap) -> bytes:
    """One gap as the JSON object that `encode_message` wraps."""
    return msgspec.json.encode(gap)


def encode_tally(tally: Tally) -> bytes:
    """One tally as the JSON object that `encode_message` wraps."""
    return msgspec.json.encode(tally)


def encode_message(boot: str, seq: int, sent_at: datetime, bodies: Iterable[bytes], day: str | None = None) -> bytes:
    """A payload of up/readings around what `encode_measurement`, `encode_gap` and `encode_tally` made."""
    bodies = list(bodies)
    gaps = [body for body in bodies if body.startswith(_GAP)]
    tallies = [body for body in bodies if body.startswith(_TALLY)]
    measurements = [body for body in bodies if not body.startswith((_GAP, _TALLY))] if gaps or tallies else bodies
    spooled = f'"day":"{day}",' if day is not None else ""
    head = f'{{"v":{VERSION},"boot":"{boot}","seq":{seq},"sent_at":"{text_of(sent_at)}",{spooled}"measurements":['
    more = b"".join(b',"' + name + b'":[' + b",".join(some) + b"]" for name, some in ((b"gaps", gaps), (b"tallies", tallies)) if some)
    return head.encode() + b",".join(measurements) + b"]" + more + b"}"


def digest_of(seq: int, body: bytes) -> int:
    """What a message adds to the digest of its day: 48 bits of SHA-256 over its number and its one body."""
    return int.from_bytes(hashlib.sha256(b"%d:" % seq + body).digest()[:6], "big")


def body_of(payload: bytes) -> bytes:
    """The one body of a message as `encode_message` made it; anything else gives something else, which agrees with nobody."""
    at = payload.find(b'"measurements":[') + 16
    if payload[at : at + 1] == b"]":
        at = payload.find(b'":[', at) + 3
    return payload[at:-2]


class PairingReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """up/pairing: what became of a pairing command, or what was discovered.

    state: paired | failed | unpaired | found | bond_lost. bond: authenticated | unauthenticated | none.
    model: row of the table of models. facts: what the device says of itself (name, model, serial, maker, firmware).
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    state: Literal["paired", "failed", "unpaired", "found", "bond_lost"]
    device: Text = ""
    bond: Literal["authenticated", "unauthenticated", "none"] | None = None
    model: Text = ""
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""
    facts: dict[Text, Text] = {}
    found: Annotated[tuple[dict[Text, Text], ...], msgspec.Meta(max_length=50)] = ()


_pairing_decoder = msgspec.json.Decoder(PairingReport)


def encode_pairing(report: PairingReport) -> bytes:
    return msgspec.json.encode(report)


def decode_pairing(payload: bytes) -> PairingReport:
    """Raises BadInput `oversized` or `bad_pairing`."""
    if len(payload) > MAX_PAYLOAD:
        raise BadInput("oversized", f"{len(payload)} bytes")
    if b"\\u0000" in payload:
        raise BadInput("bad_text", "NUL")
    try:
        return _pairing_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadInput("bad_pairing") from None


def is_online(payload: bytes) -> bool | None:
    """What a gateway's status says; None for what is no status. Nothing in it is worth a quarantine."""
    try:
        said = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return {"online": True, "offline": False}.get(str(said.get("state")))


class Refusal(msgspec.Struct, frozen=True):
    """A message that went to quarantine: its bytes are safe with the backend, sending it again is useless."""

    seq: int
    reason: str


class Receipt(msgspec.Struct, frozen=True):
    """down/receipt: what the database has committed, as inclusive ranges of seq; what is not listed is kept.

    Idempotent, positive only, may be lost without harm.
    """

    boot: str
    stored: tuple[tuple[int, int], ...] = ()
    quarantined: tuple[Refusal, ...] = ()


_receipt_decoder = msgspec.json.Decoder(Receipt)


def encode_receipt(boot: str, stored: Iterable[int], quarantined: Iterable[Refusal] = ()) -> bytes:
    """Fold sequence numbers into ranges and encode."""
    return msgspec.json.encode(Receipt(boot, tuple(ranges(stored)), tuple(quarantined)))


def decode_receipt(payload: bytes) -> Receipt:
    """Raises BadInput `bad_receipt`."""
    try:
        return _receipt_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadInput("bad_receipt") from None


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """[1, 2, 3, 7] → [(1, 3), (7, 7)]; duplicates and order do not matter."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
