"""All SQL about the packs in force and the parameters that centres and residents have of their own.

Both change through the stream like facts do; a worker notices by a version row and takes the new ones for its next transaction, all
of them at once: a transaction is judged by one set of packs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rules import pack as packs
from rules.pack import Pack
from vitals.errors import BadInput, ConfigError
from vitals.floor.database import Connection

log = logging.getLogger("rules.in_force")

EVERYWHERE = "*"  # the scope of a parameter of all centres


def together(shipped: Sequence[Pack], added: Sequence[Pack]) -> list[Pack]:
    """What ships, each guideline replaced by the version that was put in force, and guidelines that do not ship. Pure."""
    instead = {one.document.pack: one for one in added}
    found = [instead.pop(one.document.pack, one) for one in shipped]
    return [*found, *(instead[name] for name in sorted(instead))]


async def added(connection: Connection) -> list[Pack]:
    """The packs put in force. One that this version of the loader refuses is left out and logged: what ships then holds."""
    cursor = await connection.execute("select pack, version, text from rule_pack where retired_at is null order by pack")
    found = []
    for row in await cursor.fetchall():
        try:
            found.append(packs.load(row["text"]))
        except ConfigError as error:
            log.error("a pack in force is refused", extra={"pack": row["pack"], "version": row["version"], "problems": error.problems[:5]})
    return found


async def activate(connection: Connection, known: Sequence[Pack], body: Mapping[str, Any], by: str, now: datetime) -> None:
    """Put a pack in force beside the known ones, or with `retire` take one out again.

    Raises BadInput `bad_pack`, `not_signed_off`, `rule_taken` (state and reasons are kept by a rule's id), `not_in_force`.
    """
    if "retire" in body:
        cursor = await connection.execute(
            "update rule_pack set retired_at = %s, retired_by = %s where pack = %s and retired_at is null returning pack",
            (now, by, str(body["retire"])),
        )
        if await cursor.fetchone() is None:
            raise BadInput("not_in_force", str(body["retire"]))
        return
    text = str(body.get("text", ""))
    try:
        one = packs.load(text)
    except ConfigError as error:
        raise BadInput("bad_pack", "; ".join(error.problems[:20])) from None
    if not one.document.signoff:
        raise BadInput("not_signed_off", one.name)
    others = {rule.id for other in known if other.document.pack != one.document.pack for rule in other.rules}
    taken = sorted(others & {rule.id for rule in one.rules})
    if taken:
        raise BadInput("rule_taken", ", ".join(taken))
    await connection.execute(
        "update rule_pack set retired_at = %s, retired_by = %s where pack = %s and retired_at is null", (now, by, one.document.pack)
    )
    await connection.execute(
        "insert into rule_pack (pack, version, digest, text, activated_at, activated_by) values (%s, %s, %s, %s, %s, %s)",
        (one.document.pack, one.document.version, one.digest, text, now, by),
    )


async def listed(connection: Connection) -> list[dict[str, Any]]:
    """Every pack that ever was put in force, newest first, without its text."""
    cursor = await connection.execute(
        "select pack, version, digest, activated_at, activated_by, retired_at, retired_by from rule_pack order by rule_pack desc limit 200"
    )
    return await cursor.fetchall()


async def set_parameter(connection: Connection, known: Sequence[Pack], body: Mapping[str, Any], by: str, now: datetime) -> None:
    """Set or, with value null, take back a parameter. Raises BadInput `unknown_parameter`, `wrong_level`, `outside_clamp`."""
    document = next((one.document for one in known if one.document.pack == body.get("pack")), None)
    parameter = document.params.get(str(body.get("name"))) if document is not None else None
    if document is None or parameter is None:
        raise BadInput("unknown_parameter", f"{body.get('pack')}.{body.get('name')}")
    if body.get("level") not in parameter.levels:
        raise BadInput("wrong_level", str(body.get("level")))
    key = (body["level"], str(body["scope"]), document.pack, str(body["name"]))
    value = body.get("value")
    if value is None:
        await connection.execute("delete from parameter where (level, scope, pack, name) = (%s, %s, %s, %s)", key)
        return
    low, high = parameter.clamp
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadInput("outside_clamp", f"{low:g} to {high:g} {parameter.unit}")
    await connection.execute(
        "insert into parameter (level, scope, pack, name, value, recorded_at, recorded_by) values (%s, %s, %s, %s, %s, %s, %s)"
        " on conflict (level, scope, pack, name) do update"
        " set value = excluded.value, recorded_at = excluded.recorded_at, recorded_by = excluded.recorded_by",
        (*key, value, now, by),
    )


Own = dict[tuple[str, str], dict[tuple[str, str], float]]  # (level, scope) → (pack, name) → value


async def parameters(connection: Connection, scopes: Sequence[str]) -> Own:
    """What these residents have of their own."""
    return await _read(connection, "level = 'resident' and scope = any(%s)", [list(scopes)])


async def of_centres(connection: Connection) -> Own:
    return await _read(connection, "level = 'centre'", [])


async def _read(connection: Connection, where: str, arguments: list[Any]) -> Own:
    cursor = await connection.execute(f"select level, scope, pack, name, value from parameter where {where}", arguments)  # noqa: S608  ours
    found: Own = {}
    for row in await cursor.fetchall():
        found.setdefault((row["level"], row["scope"]), {})[row["pack"], row["name"]] = row["value"]
    return found
