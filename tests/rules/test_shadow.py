"""Packs in shadow see everything, keep a state of their own, page nobody, and may fail without harm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from ingest.worker import Worker
from rules import pack, shadow
from tests.ingest.helpers import Clinic, measurement, message
from tests.rules.test_alerts import MINUTES, expire
from vitals.errors import ConfigError
from vitals.floor import database
from vitals.settings import Settings
from yizhan.compose import steps

pytestmark = pytest.mark.services


@pytest_asyncio.fixture
async def trying(clinic: Clinic, tmp_path: Path) -> AsyncIterator[Clinic]:
    """A clinic that tries a stricter version of the hypertension pack."""
    text = (
        pack.text_of("cn.nbphs3.htn").replace("version: 1.1.0", "version: 1.2.0").replace("systolic: {value: 180", "systolic: {value: 171")
    )
    (tmp_path / "stricter.yaml").write_text(text, encoding="utf-8")
    await clinic.worker.close()
    clinic.worker = Worker(clinic.conninfo, steps(Settings(shadow_packs=tmp_path)))
    yield clinic
    await clinic.worker.close()


async def items(clinic: Clinic) -> list[tuple[str, ...]]:
    return [tuple(row.values()) for row in await clinic.rows("select rule, pack, state, why from shadow_item order by shadow_item")]


async def test_what_only_the_new_version_sees_is_kept_and_pages_nobody(trying: Clinic) -> None:
    await trying.send(message(measurement(175, 90)))
    assert await items(trying) == [("htn.danger", "cn.nbphs3.htn@1.2.0", "pending", "opened")]
    await expire(trying)
    await trying.idle()
    assert (await items(trying))[-1] == ("htn.danger", "cn.nbphs3.htn@1.2.0", "firing", "deadline")
    assert await trying.value("select count(*) from alert") == 0
    assert await trying.value("select count(*) from care_case") == 0
    assert await trying.value("select count(*) from case_log where what = 'paged'") == 0


async def test_what_both_see_is_an_alert_once(trying: Clinic) -> None:
    await trying.send(message(measurement(186, 112, ago=MINUTES[3])), message(measurement(186, 112)))
    assert await trying.value("select count(*) from alert") == 1
    assert [one[2:] for one in await items(trying)] == [("pending", "opened"), ("firing", "confirmed")]
    async with await database.connect(trying.conninfo) as connection:
        told = await shadow.told(connection, datetime.now(UTC), 1)
    (of_pack,) = told["packs"].values()
    assert of_pack == {"htn.danger": {"in_shadow": {"P2": 2}, "alerts_in_force": 1}}


async def test_a_pack_in_shadow_that_fails_harms_nothing(trying: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: shadow.Shadow, connection: database.Connection, *_: object) -> None:
        await connection.execute("select 1 / 0")

    monkeypatch.setattr(shadow.Shadow, "carry_out", broken)
    await trying.send(message(measurement(186, 112)))
    assert await trying.value("select count(*) from measurement") == 1
    assert ((await trying.alert()) or {})["state"] == "pending"
    assert await items(trying) == []


async def test_a_pack_in_shadow_is_checked_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("pack: x\n")
    with pytest.raises(ConfigError):
        steps(Settings(shadow_packs=tmp_path))
