"""The small made-up place that `make up` and `make demo` show: one station, one team, four residents, their cuffs."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from api import accounts
from care import residents
from ingest import attribution, devices
from rules import facts
from vitals import broker_password
from vitals.floor import database

SITE, GATEWAY, TEAM, DOCTOR = "station-1", "gateway-1", "team-qinghe", "dr-zhang"
KIOSK_CUFF, MANUAL = "cuff-kiosk-1", "manual-1"
PEOPLE = (
    ("王秀兰", "female", date(1957, 3, 14), "cuff-home-1"),
    ("李建国", "male", date(1968, 11, 2), "cuff-home-2"),
    ("陈美玲", "female", date(1949, 6, 30), "cuff-home-3"),
)


def virtual_devices() -> list[dict[str, str]]:
    """What the gateway may connect to, and what the simulator plays."""
    names = [*(person[3] for person in PEOPLE), KIOSK_CUFF]
    return [
        {
            "device": name,
            "address": f"F0:00:00:00:00:{number:02X}",
            "kind": "blood_pressure",
            "setting": "kiosk" if name == KIOSK_CUFF else "home",
        }
        for number, name in enumerate(names, 1)
    ]


def write_devices(path: Path) -> None:
    path.write_text(json.dumps(virtual_devices(), indent=1))


async def found(conninfo: str, gateway_password: str) -> bool:
    """Settle the town in an empty database; False if it is already there."""
    async with await database.connect(conninfo) as connection:
        cursor = await connection.execute("select 1 from gateway where gateway = %s", (GATEWAY,))
        if await cursor.fetchone() is not None:
            return False
        now = datetime.now(UTC)
        await devices.add_site(connection, SITE, "清河智慧健康驿站")
        await devices.enrol_gateway(connection, GATEWAY, SITE, broker_password.hashed(gateway_password))
        await residents.add_team(connection, TEAM, "清河家庭医生团队", "清河社区卫生服务中心")
        await residents.add_staff(connection, DOCTOR, "张医生", TEAM)
        await residents.set_duty(connection, SITE, TEAM)
        await devices.register(connection, KIOSK_CUFF, "blood_pressure", "kiosk", SITE, GATEWAY)
        await devices.register(connection, MANUAL, "blood_pressure", "manual", SITE, GATEWAY)
        for name, sex, born, cuff in PEOPLE:
            resident = await residents.add(connection, name, sex, born, SITE)
            await residents.sign(connection, resident, DOCTOR, now.date())
            known = {"sex": sex, "birth_date": born.isoformat(), "hypertension": True}
            await facts.record(connection, resident, known, "system", now)
            await devices.register(connection, cuff, "blood_pressure", "home", None, None)
            await attribution.bind(connection, cuff, resident, now - timedelta(days=30))
        await connection.commit()
    return True


async def make_login(conninfo: str, role: str, refers_to: str | None) -> str:
    """A fresh token; it is not stored and cannot be shown again."""
    async with await database.connect(conninfo) as connection:
        _, token = await accounts.create(connection, role, refers_to)
        await connection.commit()
    return token
