"""The small made-up place that `make up` and `make demo` show: one station, one team, four residents, their cuffs; who works there."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from api import accounts
from care import contracts, residents, staff
from care.identity import Seal, check_digit
from ingest import attribution, devices
from rules import facts
from vitals import broker_password
from vitals.floor import database

SITE, GATEWAY, TEAM, DOCTOR = "station-1", "gateway-1", "team-qinghe", "dr-zhang"
CENTRE, HOSPITAL, GRID, DISTRICT = "centre-qinghe", "hospital-1", "grid-qinghe-3", "district-1"
KIOSK_CUFF, MANUAL = "cuff-kiosk-1", "manual-1"
PEOPLE = (
    ("王秀兰", "female", date(1957, 3, 14), "cuff-home-1"),
    ("李建国", "male", date(1968, 11, 2), "cuff-home-2"),
    ("陈美玲", "female", date(1949, 6, 30), "cuff-home-3"),
)
# staff → name, team, role and place, and the role of their login
PERSONNEL = (
    (DOCTOR, "张医生", TEAM, "family_doctor", TEAM, "doctor"),
    ("dr-liu", "刘医生", TEAM, "team_lead", TEAM, "doctor"),
    ("nurse-zhao", "赵护士", TEAM, "nurse", TEAM, "nurse"),
    ("duty-sun", "孙值班", None, "supervisor", CENTRE, "supervisor"),
    ("hosp-wu", "吴医师", None, "hospital", HOSPITAL, "hospital"),
    ("sentinel-he", "何网格员", None, "sentinel", GRID, "sentinel"),
)
REGIONS = (
    (DISTRICT, None, "district", "清河区"), ("street-qinghe", DISTRICT, "street", "清河街道"),
    ("community-qinghe", "street-qinghe", "community", "清河社区"), (GRID, "community-qinghe", "grid", "第三网格"),
)  # fmt: skip


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


def identity_number(born: date, sex: str, order: int) -> str:
    """An identity number whose check digit is right and whose region (000000 is none) is nobody's."""
    first = f"990000{born:%Y%m%d}{order:02d}{1 if sex == 'male' else 2}"
    return first + check_digit(first)


async def found(conninfo: str, gateway_password: str, field_key: str) -> bool:
    """Settle the town in an empty database; False if it is already there."""
    async with await database.connect(conninfo) as connection:
        cursor = await connection.execute("select 1 from gateway where gateway = %s", (GATEWAY,))
        if await cursor.fetchone() is not None:
            return False
        now, seal = datetime.now(UTC), Seal(field_key)
        await devices.add_site(connection, SITE, "清河智慧健康驿站")
        await devices.enrol_gateway(connection, GATEWAY, SITE, broker_password.hashed(gateway_password))
        await _staff(connection)
        await residents.set_duty(connection, SITE, TEAM)
        await devices.register(connection, KIOSK_CUFF, "blood_pressure", "kiosk", SITE, GATEWAY)
        await devices.register(connection, MANUAL, "blood_pressure", "manual", SITE, GATEWAY)
        for order, (name, sex, born, cuff) in enumerate(PEOPLE, 1):
            resident = await residents.add(connection, name, sex, born, SITE, region=GRID)
            numbers = {"id_card": identity_number(born, sex, order), "phone": f"1390000000{order}"}
            await residents.identify(connection, seal, resident, numbers, now.date(), "system")
            await contracts.sign(connection, resident, DOCTOR, now.date(), package="chronic", until=now.date() + contracts.TERM)
            known = {"sex": sex, "birth_date": born.isoformat(), "hypertension": True}
            await facts.record(connection, resident, known, "system", now)
            await devices.register(connection, cuff, "blood_pressure", "home", None, None)
            await attribution.bind(connection, cuff, resident, now - timedelta(days=30))
        await connection.commit()
    return True


async def _staff(connection: database.Connection) -> None:
    for region in REGIONS:
        await staff.add_region(connection, *region)
    await staff.add_centre(connection, CENTRE, "清河社区卫生服务中心", DISTRICT)
    await staff.add_hospital(connection, HOSPITAL, "市第一医院", DISTRICT)
    await staff.add_team(connection, TEAM, "清河家庭医生团队", CENTRE)
    for person, name, team, role, place, _login in PERSONNEL:
        await staff.add(connection, person, name, team, role, place)


async def first(conninfo: str) -> str:
    """The first of the town's people."""
    async with await database.connect(conninfo) as connection:
        cursor = await connection.execute(
            "select resident from binding join device using (device_no) where device = %s and upper_inf(during)", (PEOPLE[0][3],)
        )
        row = await cursor.fetchone()
    assert row is not None
    return str(row["resident"])


async def make_password(conninfo: str, role: str, refers_to: str | None, login: str) -> str:
    """An account with a name and a fresh password, which is not stored in clear and cannot be shown again."""
    password = f"{secrets.token_hex(4)}-{secrets.token_hex(4)}"
    async with await database.connect(conninfo) as connection:
        await accounts.create_login(connection, role, refers_to, login, password)
        await connection.commit()
    return password


async def make_login(conninfo: str, role: str, refers_to: str | None) -> str:
    """A fresh token; it is not stored and cannot be shown again."""
    async with await database.connect(conninfo) as connection:
        _, token = await accounts.create(connection, role, refers_to)
        await connection.commit()
    return token
