"""All SQL about the lives of a gateway's spool: how far each stream came, what it had to drop, and whether its disk was copied.

A spool's life is named by a number that counts its openings. Two names with the same number come from one disk that was
copied to two boxes, or set back to an old image: somebody must look, because records of the lost life may be missing.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
from psycopg.rows import tuple_row

from ingest.admit import Admitted
from vitals.floor import metrics
from vitals.floor.database import Connection
from vitals.wire import Gap, Tally, body_of, digest_of, generation_of
from vitals.wire import ranges as ranges_of

log = logging.getLogger("ingest.lives")


async def note_positions(connection: Connection, judged: Iterable[Admitted]) -> None:
    """Note which numbers are safe by this transaction (stored, or in quarantine), and add what is new to the books of its day."""
    arrived: dict[tuple[str, str], dict[int, Admitted]] = {}
    for one in judged:
        if one.receipt is not None and one.gateway and (one.refusal is None or one.refusal[0] != "unknown_gateway"):
            arrived.setdefault((f"mqtt:{one.gateway}", one.receipt[0]), {})[one.receipt[1]] = one
    if not arrived:
        return
    keys = sorted(arrived)
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(
        "select p.source, p.boot, p.seen from unnest(%s::text[], %s::text[]) as k(source, boot) join position p using (source, boot)"
        " order by 1, 2 for update of p",
        ([source for source, _ in keys], [boot for _, boot in keys]),
    )
    seen = {(source, boot): [(one.lower, one.upper) for one in ranges] for source, boot, ranges in await cursor.fetchall()}
    fresh = {key: _fresh(arrived[key], seen.get(key, [])) for key in keys}
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(
        "insert into position (source, boot, high, messages, seen)"
        " select source, boot, high, messages, seen::int8multirange"
        " from unnest(%s::text[], %s::text[], %s, %s, %s::text[]) as n(source, boot, high, messages, seen)"
        " on conflict (source, boot) do update set high = greatest(position.high, excluded.high),"
        " messages = position.messages + excluded.messages, seen = position.seen + excluded.seen, updated_at = now()"
        " returning source, boot",
        (
            [source for source, _ in keys],
            [boot for _, boot in keys],
            np.array([max(arrived[key]) for key in keys], np.int64),
            np.array([len(fresh[key]) for key in keys], np.int64),
            ["{" + ",".join(f"[{first},{last}]" for first, last in ranges_of(arrived[key])) + "}" for key in keys],
        ),
    )
    await cursor.fetchall()
    for key in keys:
        if key not in seen:
            await _look_for_fork(connection, *key)
    await _add_to_days(connection, {key: [arrived[key][seq] for seq in fresh[key]] for key in keys})


def _fresh(arrived: dict[int, Admitted], seen: list[tuple[int, int]]) -> list[int]:
    """Numbers that no [lower, upper) of `seen` holds."""
    if not seen or min(arrived) >= seen[-1][1]:
        return sorted(arrived)
    lowers = [lower for lower, _ in seen]

    def known(number: int) -> bool:
        at = bisect_right(lowers, number) - 1
        return at >= 0 and number < seen[at][1]

    return sorted(number for number in arrived if not known(number))


async def _add_to_days(connection: Connection, fresh: dict[tuple[str, str], list[Admitted]]) -> None:
    """Count and digest of what came for the first time; messages that name no day come from no spool of ours."""
    days: dict[tuple[str, str, date], tuple[int, int]] = {}
    for (source, boot), items in fresh.items():
        for one in items:
            if one.day is None or one.item.parts > 1 or one.receipt is None:
                continue
            messages, digest = days.get((source, boot, one.day), (0, 0))
            days[source, boot, one.day] = messages + 1, digest + digest_of(one.receipt[1], body_of(one.item.payload))
    if not days:
        return
    keys = sorted(days)
    await connection.execute(
        "insert into day_tally (source, boot, day, messages, digest)"
        " select * from unnest(%s::text[], %s::text[], %s::date[], %s, %s)"
        " on conflict (source, boot, day) do update set messages = day_tally.messages + excluded.messages,"
        " digest = (day_tally.digest + excluded.digest) %% 281474976710656",
        (
            [key[0] for key in keys], [key[1] for key in keys], [key[2] for key in keys],
            np.array([days[key][0] for key in keys], np.int64),
            np.array([days[key][1] % (1 << 48) for key in keys], np.int64),
        ),
    )  # fmt: skip


async def note_reports(connection: Connection, source: str, tallies: Iterable[Tally]) -> None:
    """What a gateway says of days that are over; told twice it is noted once."""
    for one in tallies:
        await connection.execute(
            "insert into day_report (source, boot, day, first, last, messages, digest) values (%s, %s, %s, %s, %s, %s, %s)"
            " on conflict do nothing",
            (source, one.boot, one.day, one.first, one.last, one.messages, one.digest),
        )


class Disagreement(NamedTuple):
    """A day of a gateway on which the books differ. missing: ranges of numbers that are neither stored, nor in quarantine, nor in a gap."""

    gateway: str
    boot: str
    day: date
    reported: int
    stored: int
    missing: list[tuple[int, int]]
    why: str  # missing | content


async def reconcile(connection: Connection, patience: timedelta = timedelta(hours=1)) -> list[Disagreement]:
    """Compare the books of every day that a gateway reported and that did not agree yet; commits what does by now.

    patience: how long after a report its last messages may still be on their way.
    """
    await connection.execute(
        "update day_report r set agreed_at = now() from day_tally t where r.agreed_at is null"
        " and (t.source, t.boot, t.day) = (r.source, r.boot, r.day) and t.messages + coalesce((select sum(g.last - g.first + 1) from gap g"
        "  where g.source = r.source and g.boot = r.boot and g.first >= r.first and g.last <= r.last), 0) = r.messages"
        " and (t.digest = r.digest or exists (select from gap g where g.source = r.source and g.boot = r.boot"
        "  and g.first >= r.first and g.last <= r.last))"
    )
    cursor = await connection.execute(
        "select r.source, r.boot, r.day, r.messages as reported, coalesce(t.messages, 0) as stored,"
        " int8multirange(int8range(r.first, r.last, '[]')) - coalesce(p.seen, '{}')"
        "  - coalesce((select range_agg(int8range(g.first, g.last, '[]'))"
        "  from gap g where g.source = r.source and g.boot = r.boot), '{}') as missing"
        " from day_report r left join day_tally t using (source, boot, day) left join position p using (source, boot)"
        " where r.agreed_at is null and r.reported_at <= now() - %s::interval order by 1, 2, 3",
        (patience,),
    )
    found = []
    for row in await cursor.fetchall():
        missing = [(one.lower, one.upper - 1) for one in row["missing"]]
        why = "missing" if missing else "content"
        gateway = row["source"].removeprefix("mqtt:")
        found.append(Disagreement(gateway, row["boot"], row["day"], row["reported"], row["stored"], missing, why))
        log.error(
            "books differ", extra={"gateway": gateway, "boot": row["boot"], "day": str(row["day"]), "why": why, "missing": missing[:10]}
        )
    await connection.commit()
    metrics.books_differ.set(len(found))
    return found


async def holes(connection: Connection, patience: timedelta = timedelta(hours=1)) -> list[tuple[str, str, list[tuple[int, int]]]]:
    """(gateway, boot, ranges) of numbers inside a sequence that came by no message and no gap explains, older than `patience`."""
    cursor = await connection.execute(
        "select source, boot, int8multirange(range_merge(seen)) - seen - coalesce((select range_agg(int8range(g.first, g.last, '[]'))"
        "  from gap g where g.source = p.source and g.boot = p.boot), '{}') as missing"
        " from position p where not isempty(seen) and updated_at <= now() - %s::interval"
        " and int8multirange(range_merge(seen)) <> seen order by 1, 2",
        (patience,),
    )
    found = [
        (row["source"].removeprefix("mqtt:"), row["boot"], [(one.lower, one.upper - 1) for one in row["missing"]])
        for row in await cursor.fetchall()
    ]
    return [one for one in found if one[2]]


async def _look_for_fork(connection: Connection, source: str, boot: str) -> None:
    generation = generation_of(boot)
    if generation is None:
        return
    cursor = await connection.execute(
        "update gateway g set forked_at = coalesce(forked_at, now()) where g.gateway = %s and exists"
        " (select 1 from position p where p.source = %s and p.boot <> %s and p.boot like %s and p.updated_at >= g.enrolled_at)"
        " returning g.gateway",
        (source.removeprefix("mqtt:"), source, boot, boot.partition("-")[0] + "-%"),
    )
    if await cursor.fetchone() is not None:
        metrics.gateway_forks.inc()
        log.error("two lives of one spool with the same number: its disk was copied or set back", extra={"source": source, "boot": boot})


async def note_gaps(connection: Connection, source: str, gaps: Iterable[Gap]) -> None:
    """What a full spool dropped; told twice it is noted once."""
    for gap in gaps:
        log.warning("gap", extra={"source": source, "reason": gap.reason, "worth": gap.worth, "ranges": len(gap.lost)})
        for first, last in gap.lost:
            await connection.execute(
                "insert into gap (source, boot, first, last, reason, worth) values (%s, %s, %s, %s, %s, %s) on conflict do nothing",
                (source, gap.boot, first, last, gap.reason, gap.worth),
            )


async def forked(connection: Connection) -> list[str]:
    """Gateways whose disk was copied or set back since they were enrolled."""
    cursor = await connection.execute("select gateway from gateway where forked_at >= enrolled_at and revoked_at is null order by gateway")
    return [row["gateway"] for row in await cursor.fetchall()]


async def note_status(connection: Connection, said: Mapping[str, bool]) -> None:
    """Whether gateways are connected, as they (or their last will) say."""
    if said:
        await connection.execute(
            "insert into gateway_status (gateway, online) select * from unnest(%s::text[], %s::boolean[]) on conflict (gateway)"
            " do update set online = excluded.online, since = case when gateway_status.online = excluded.online"
            "  then gateway_status.since else now() end",
            (list(said), list(said.values())),
        )


async def unheard(connection: Connection, subjects: Sequence[str]) -> set[str]:
    """Those of the subjects whose last measurement came through a gateway that is not connected now."""
    cursor = await connection.execute(
        "select s.subject from unnest(%s::text[]) as s(subject), lateral (select m.source from measurement m"
        "  where m.subject = s.subject and m.measured_at >= now() - interval '1 year' order by m.measured_at desc limit 1) l"
        " join gateway_status g on l.source = 'mqtt:' || g.gateway where not g.online",
        (list(subjects),),
    )
    return {row["subject"] for row in await cursor.fetchall()}


async def board(connection: Connection) -> list[dict[str, Any]]:
    """Every gateway that is enrolled: its site, whether it is connected and since when, when it was last heard, its stations' devices."""
    cursor = await connection.execute(
        "select g.gateway, g.site, s.name as site_name, t.online, t.since,"
        " (select max(p.updated_at) from position p where p.source = 'mqtt:' || g.gateway) as heard_at,"
        " (select jsonb_agg(jsonb_build_object('device', d.device, 'kind', d.kind, 'model', d.model, 'calibrated_on', d.calibrated_on,"
        "  'last_at', h.last_at, 'n', h.n, 'battery_low_at', h.battery_low_at, 'shift', h.shift, 'spread', h.spread) order by d.device)"
        "  from device d left join device_health h using (device_no) where d.station = g.gateway) as devices"
        " from gateway g join site s using (site) left join gateway_status t using (gateway) where g.revoked_at is null"
        " order by s.name, g.gateway"
    )
    return await cursor.fetchall()
