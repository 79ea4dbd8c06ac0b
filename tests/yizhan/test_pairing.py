"""Pairing from the backend to the device and back, over HTTP, MQTT and Bluetooth; and what a bond is worth."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.town import dbus_daemon
from tests.conftest import missing
from tests.yizhan.test_embedded import Api
from vitals.floor import database
from yizhan import town
from yizhan.composition import Composition

pytestmark = pytest.mark.services
METER, BAND = "F0:00:00:00:02:01", "F0:00:00:00:02:02"
HERE = f"/v1/gateways/{town.GATEWAY}"


async def answered(admin: Api, asked: Any, patience: float = 40) -> dict[str, Any]:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found: dict[str, Any] = await admin.ask("GET", f"{HERE}/pairings/{asked['id']}")
        if found["state"] != "asked":
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"no answer to {asked}")


async def row(composition: Composition, query: str) -> dict[str, Any]:
    async with await database.connect(composition.database_url) as connection:
        found = await (await connection.execute(query.encode())).fetchone()
    assert found is not None
    return found


@pytest.mark.parametrize("radio", ["bluez", "in-process"])
async def test_a_device_is_found_bonded_read_trusted_by_its_bond_and_forgotten(tmp_path: Path, radio: str) -> None:
    if radio == "bluez" and dbus_daemon() is None:
        missing("bluez", "dbus-daemon is not installed")
    async with Composition(tmp_path / "data", radio=radio) as composition:
        admin = Api(composition, await town.make_login(composition.database_url, "admin", None))
        sim = composition.control
        await sim.ask(do="add", row={"device": "meter", "address": METER, "family": "glucose_meter", "passkey": 123456, "name": "meter+01"})
        await sim.ask(do="add", row={"device": "band", "address": BAND, "family": "heart_rate_band"})
        await sim.ask(do="measure", device="meter", glucose=5.4)
        await sim.ask(do="wake", device="band")
        for name, kind in (("meter-7", "glucose"), ("band-7", "heart_rate")):
            await admin.ask("POST", "/v1/devices", {"device": name, "kind": kind, "setting": "home"})

        found = await answered(admin, await admin.ask("POST", f"{HERE}/discoveries", {"seconds": 2}))
        assert found["state"] == "found"
        heard = {one["address"]: one for one in found["report"]["found"]}
        assert (heard[METER]["kind"], heard[METER]["model"]) == ("glucose", "Accu-Chek Guide")
        assert heard[BAND]["kind"] == "heart_rate"

        pair = {"device": "meter-7", "address": METER, "kind": "glucose", "setting": "home", "model": "Accu-Chek Guide"}
        wrong = await answered(admin, await admin.ask("POST", f"{HERE}/pairings", {**pair, "passkey": 111111, "seconds": 20}))
        assert (wrong["state"], wrong["report"]["reason"]) == ("failed", "authentication_failed")
        await sim.ask(do="wake", device="meter")
        right = await answered(admin, await admin.ask("POST", f"{HERE}/pairings", {**pair, "passkey": 123456, "seconds": 20}))
        assert (right["state"], right["report"]["bond"]) == ("paired", "authenticated")
        assert right["report"]["facts"]["serial"] == "meter"
        again = await answered(admin, await admin.ask("POST", f"{HERE}/pairings", {**pair, "passkey": 123456, "seconds": 20}), 5)
        assert (again["state"], again["report"]["bond"]) == ("paired", "authenticated"), "asked twice, answered at once"
        await sim.ask(do="wake", device="band")
        plain = {"device": "band-7", "address": BAND, "kind": "heart_rate", "setting": "home"}
        bare = await answered(admin, await admin.ask("POST", f"{HERE}/pairings", {**plain, "seconds": 20}))
        assert (bare["state"], bare["report"]["bond"]) == ("paired", "none")
        trust = await row(
            composition, "select json_object_agg(device, bond_protected) as t from device where device in ('meter-7', 'band-7')"
        )
        assert trust["t"] == {"meter-7": True, "band-7": False}

        await sim.ask(do="wake", device="meter")
        end = time.monotonic() + 20
        while time.monotonic() < end:
            stored = await row(composition, "select count(*) as n from measurement join device using (device_no) where device = 'meter-7'")
            if stored["n"]:
                break
            await asyncio.sleep(0.1)
        assert stored["n"] == 1, "the paired meter is read without a restart"
        secrets = await row(composition, "select count(*) as n from outbox where body ? 'passkey'")
        assert secrets["n"] == 0, "a passkey is not kept once it was sent"
        rows = json.loads((composition.data / "devices.json").read_text())
        assert {"meter-7", "band-7"} <= {one["device"] for one in rows}
        assert (composition.data / "devices.json").stat().st_mode & 0o077 == 0

        assert METER in (await sim.ask(do="bonds"))["addresses"]
        gone = await answered(admin, await admin.ask("DELETE", f"{HERE}/pairings/meter-7"))
        assert gone["state"] == "unpaired"
        assert METER not in (await sim.ask(do="bonds"))["addresses"], "the bond is gone from the host"
        after = await row(composition, "select bond, bond_protected from device where device = 'meter-7'")
        assert after == {"bond": "none", "bond_protected": False}
        away = {**pair, "passkey": 123456, "address": "F0:00:00:00:09:09", "seconds": 1}
        nobody = await answered(admin, await admin.ask("POST", f"{HERE}/pairings", away))
        assert (nobody["state"], nobody["report"]["reason"]) == ("failed", "not_found")
