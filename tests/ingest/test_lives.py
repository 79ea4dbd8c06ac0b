"""What the backend learns of a gateway's spool: explained gaps, and a disk that was copied or set back."""

from __future__ import annotations

import json

from tests.ingest.helpers import TOPIC, Clinic, measurement, message
from vitals import wire
from vitals.wire import Gap, PairingReport

PAIRING = TOPIC.replace("readings", "pairing")


async def test_a_gap_is_noted_once_and_answered_with_a_receipt(clinic: Clinic) -> None:
    gap = json.loads(wire.encode_gap(Gap("000001-aa", ((3, 9), (12, 12)), "spool_full", "trend")))
    for _ in range(2):
        judged = await clinic.send(message(boot="000001-aa", seq=20, gaps=[gap]))
        assert judged[0].refusal is None
        assert judged[0].receipt == ("000001-aa", 20)
    rows = await clinic.rows("select boot, first, last, reason, worth from gap order by first")
    assert [(row["first"], row["last"], row["worth"]) for row in rows] == [(3, 9, "trend"), (12, 12, "trend")]


async def test_a_message_with_nothing_in_it_is_refused(clinic: Clinic) -> None:
    assert (await clinic.send(message()))[0].refusal[0] == "bad_schema"


async def test_two_lives_with_one_number_raise_an_alarm_and_lose_nothing(clinic: Clinic) -> None:
    for boot in ("000001-aa", "000002-bb", "000003-cc"):
        await clinic.send(message(measurement(), boot=boot))
    assert await clinic.value("select forked_at from gateway") is None
    await clinic.send(message(measurement(), boot="000002-dd"))
    assert await clinic.value("select forked_at from gateway") is not None
    assert await clinic.value("select count(*) from measurement") == 4, "what the copy measured is stored all the same"


async def test_a_pairing_answer_counts_only_from_the_gateway_that_was_asked(clinic: Clinic) -> None:
    from ingest import pairing
    from vitals.floor import database
    from yizhan import town

    device = town.PEOPLE[0][3]
    async with await database.connect(clinic.conninfo) as connection:
        asked = [await pairing.ask(connection, town.GATEWAY, "pair", {"device": device, "passkey": 1}, "tester") for _ in range(3)]
        await connection.commit()

    async def say(number: int, **more: object) -> object:
        report = {"id": asked[number], "state": "paired", "device": device, "bond": "authenticated", "facts": {"serial": "S1"}} | more
        return (await clinic.send(json.dumps(report).encode(), topic=PAIRING))[0].refusal

    assert await say(0, id="p-nobody") == ("unknown_pairing", "")
    assert await say(0, device="another") == ("unknown_pairing", "")
    assert await say(0) is None
    assert await clinic.value("select bond_protected from device where device = %s", device) is True
    assert await say(1, bond="unauthenticated") is None
    assert await clinic.value("select bond_protected from device where device = %s", device) is False, "no passkey, no trust"
    assert await say(2, facts={"serial": "S2"}) is None
    assert await clinic.value("select state from pairing where id = %s", asked[2]) == "mismatch"
    assert await clinic.value("select bond_protected from device where device = %s", device) is False, "another serial number"
    assert (await clinic.send(b'{"id":"", "state": 1}', topic=PAIRING))[0].refusal[0] == "bad_pairing"


def test_reports_survive_the_wire() -> None:
    report = PairingReport("p-1", "found", found=({"address": "F0:00:00:00:00:01", "kind": "glucose"},))
    assert wire.decode_pairing(wire.encode_pairing(report)) == report


async def test_what_a_kiosk_reports_without_a_number_is_stored_as_an_answer(clinic: Clinic) -> None:
    """Faecal occult blood is coded; spirometry is composite; both come as measurements like any other."""
    judged = await clinic.send(
        message(measurement(kind="coded", values={"fobt": "positive"})),
        message(measurement(kind="spirometry", values={"fev1": 2.31, "fvc": 3.4, "fev1_fvc": 67.9})),
        message(measurement(kind="coded", values={"fobt": "perhaps"})),
    )
    assert [one.refusal for one in judged] == [None, None, ("unknown_answer", "fobt")]
    rows = await clinic.rows("select kind, coded from measurement order by measurement")
    assert [(row["kind"], row["coded"]) for row in rows] == [("coded", {"fobt": "positive"}), ("spirometry", None)]
    assert await clinic.value("select count(*) from reading") == 3
