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
from vitals.measurement import Kind, Measurement, Samples, Setting, TimeQuality, telling
from vitals.metric import CODED, METRICS

VERSION = 1
ROOT = f"yz/{VERSION}"
MAX_PAYLOAD = 256 * 1024
MAX_MEASUREMENTS = 1000
SKEW = timedelta(minutes=5)
EARLIEST = datetime(2015, 1, 1, tzinfo=UTC)  # no device of ours was made before

UP = ("readings", "status", "pairing")
DOWN = ("receipt", "command", "advice")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


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


def parse_topic(text: str) -> Topic:
    """Parse a topic; raises BadInput `bad_topic`."""
    parts = text.split("/")
    if len(parts) == 6 and "/".join(parts[:2]) == ROOT:
        found = Topic(*parts[2:])
        if valid_name(found.site) and valid_name(found.gateway) and found.what in {"up": UP, "down": DOWN}.get(found.way, ()):
            return found
    raise BadInput("bad_topic")


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=rf"\A{_NAME.pattern}\Z")]
Text = Annotated[str, msgspec.Meta(max_length=64)]
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _WireMeasurement(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    device: Name
    kind: Kind
    record: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    measured_at: Text
    received_at: Text
    series: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] = "1"
    device_time: Text | None = None
    time_quality: TimeQuality = "untrusted"
    setting: Setting = "home"
    checkin: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None
    values: dict[Text, int | float | Text] = {}
    codes: dict[Text, Text] = {}
    flags: Annotated[list[Text], msgspec.Meta(max_length=32)] = []
    identity: str = "device"
    raw: Annotated[str, msgspec.Meta(max_length=4096, pattern=r"\A([0-9a-f]{2})*\Z")] = ""
    samples: dict[Text, Samples] = {}


class Gap(msgspec.Struct, frozen=True):
    """What a full spool had to drop: inclusive ranges of seq of one boot, why, and how much they were worth."""

    boot: Name
    lost: Annotated[tuple[tuple[Seq, Seq], ...], msgspec.Meta(min_length=1)]
    reason: Text
    worth: Text


class Tally(msgspec.Struct, frozen=True):
    """What one life of a spool took in on one day (UTC): its first and last number, how many, and the sum of their digests."""

    day: Annotated[str, msgspec.Meta(pattern=r"\A\d{4}-\d{2}-\d{2}\Z")]
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
    day: Annotated[str, msgspec.Meta(pattern=r"\A\d{4}-\d{2}-\d{2}\Z")] | None = None
    measurements: Annotated[list[_WireMeasurement], msgspec.Meta(max_length=MAX_MEASUREMENTS)]
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


_decoder, _encoder = msgspec.json.Decoder(_WireMessage), msgspec.json.Encoder()


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


def _measurement(wire: _WireMeasurement, now: datetime) -> Measurement:
    received = _moment(wire.received_at)
    measured = _moment(wire.measured_at)
    quality: TimeQuality = wire.time_quality
    if received is None or not EARLIEST <= received <= now + SKEW:
        received, quality = now, "untrusted"  # the gateway's own clock is wrong
    if measured is None or not EARLIEST <= measured <= now + SKEW:
        quality = "untrusted"
    if quality == "untrusted":
        measured = received
    assert measured is not None
    values: dict[str, float | str] = {}
    for code, value in wire.values.items():
        if isinstance(value, str):
            if code not in CODED:
                raise BadInput("unknown_metric" if code not in METRICS else "not_a_number", code)
            if value not in CODED[code]:
                raise BadInput("unknown_answer", code)
        else:
            metric = METRICS.get(code)
            if metric is None:
                raise BadInput("unknown_metric", code)
            low, high = metric.encodable
            if not low <= value <= high:
                raise BadInput("impossible_value", code)
            value = float(value)
        values[code] = value
    if wire.samples:
        for code, samples in wire.samples.items():
            _check_samples(code, samples)
            if METRICS[code].priority_low is not None or METRICS[code].priority_high is not None:
                values.setdefault(code, telling(code, samples.values))
    if not values and not wire.codes and not wire.samples:
        raise BadInput("no_values")
    if wire.codes and (unknown := [code for code in wire.codes if code not in METRICS and code not in CODED]):
        raise BadInput("unknown_metric", unknown[0])
    return Measurement(
        device=wire.device,
        kind=wire.kind,
        record=wire.record,
        measured_at=measured,
        received_at=received,
        series=wire.series,
        device_time=wire.device_time,
        time_quality=quality,
        setting=wire.setting,
        checkin=wire.checkin,
        values=values,
        codes=dict(wire.codes),
        flags=list(wire.flags),
        identity="gateway" if wire.identity == "gateway" else "device",
        raw=wire.raw,
        samples=wire.samples,
    )


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
    sent = None
    if wire.sent_at is not None:
        sent = parse_moment(wire.sent_at)
    if not wire.measurements and not wire.gaps and not wire.tallies:
        raise BadInput("bad_schema", "neither measurements nor gaps")
    try:
        day = date.fromisoformat(wire.day) if wire.day is not None else None
        for tally in wire.tallies:
            date.fromisoformat(tally.day)
    except ValueError:
        raise BadInput("bad_time", "no such day") from None
    return Message(wire.boot, wire.seq, sent, tuple([_measurement(m, now) for m in wire.measurements]), wire.gaps, wire.tallies, day)


def _decode(payload: bytes) -> _WireMessage:
    """The typed message; refuses duplicate keys, which the typed decoder would pass over.

    What our own gateways send encodes again to the very same bytes, and then no key can be there twice; everything else
    is read once more by a parser that looks (measured: 0.2 against 2.0 µs for each measurement).
    """
    document: Any = None
    try:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            wire = _decoder.decode(payload)
            if _encoder.encode(wire) == payload:
                return wire
        document = json.loads(payload, object_pairs_hook=_no_duplicate_keys, parse_constant=_refuse_constant)
        return _decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise _schema_problem(document, error) from None
    except (ValueError, RecursionError, msgspec.MsgspecError):
        raise BadInput("not_json") from None


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
    wire = _WireMeasurement(
        device=measurement.device,
        kind=measurement.kind,
        record=measurement.record,
        measured_at=text_of(measurement.measured_at),
        received_at=text_of(measurement.received_at),
        series=measurement.series,
        device_time=measurement.device_time,
        time_quality=measurement.time_quality,
        setting=measurement.setting,
        checkin=measurement.checkin,
        values=dict(measurement.values),
        codes=measurement.codes,
        flags=measurement.flags,
        identity=measurement.identity,
        raw=measurement.raw,
        samples=measurement.samples,
    )
    return msgspec.json.encode(wire)


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
