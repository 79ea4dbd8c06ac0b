"""The API against its own description, by everybody: whatever may be sent, no answer is a server's error or an undocumented one."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from api import accounts
from tests.api.test_http import behind
from tests.ingest.helpers import FIELD_KEY, Clinic, measurement, message
from vitals.floor import database
from yizhan import town
from yizhan.composition import Service, free_port

pytestmark = pytest.mark.services

EXAMPLES = 3  # for each operation and role
ENDLESS = ("/v1/events", "/v1/checkins/{checkin}/events")


@pytest.mark.parametrize(
    "roles",
    [("nobody", "admin", "security"), ("audit", "doctor", "nurse"), ("supervisor", "hospital", "sentinel"), ("station", "resident")],
)
async def test_no_role_gets_an_undocumented_answer(clinic: Clinic, tmp_path: Path, roles: tuple[str, ...]) -> None:
    await clinic.send(message(measurement(186, 112)), message(measurement(131, 81, device=town.KIOSK_CUFF, setting="kiosk")))
    async with await database.connect(clinic.conninfo) as connection:
        staffed = {login: person for person, *_, login in reversed(town.PERSONNEL)}
        refers = {"admin": None, "security": None, "audit": None, "station": town.GATEWAY, "resident": await clinic.resident(), **staffed}
        tokens = {role: (await accounts.create(connection, role, person))[1] for role, person in refers.items()}
        await connection.commit()
    port = free_port()
    environment = dict(os.environ) | {
        "YIZHAN_API_DATABASE_URL": behind(clinic.conninfo), "YIZHAN_API_PORT": str(port), "YIZHAN_FIELD_KEY": FIELD_KEY, "YIZHAN_API_RATE": "1000", "YIZHAN_API_TRIES": "1000",
    }  # fmt: skip
    service = Service("api", [sys.executable, "-m", "yizhan", "api"], environment, tmp_path / "api.log")
    await service.start()
    try:
        address = f"http://127.0.0.1:{port}"
        await _up(address)
        problems = await asyncio.to_thread(_everybody, address, {role: tokens.get(role, "") for role in roles})
    finally:
        await service.stop()
    assert not problems, "\n".join(problems)


async def _up(address: str) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(300):
            try:
                if (await client.get(f"{address}/v1/health")).is_success:
                    return
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
    raise AssertionError("the API did not start")


def _everybody(address: str, tokens: dict[str, str]) -> list[str]:
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    problems: list[str] = []
    asked = 0
    for role, token in tokens.items():
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for found in schema.get_all_operations():
            operation = found.ok()
            if operation.path in ENDLESS:
                continue

            @settings(max_examples=EXAMPLES, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy())
            def ask(case: Any) -> None:
                nonlocal asked
                asked += 1
                answer = case.call(headers=headers)  # noqa: B023  called before the next turn
                case.validate_response(answer, checks=[not_a_server_error, status_code_conformance, content_type_conformance,
                                                       response_schema_conformance])  # fmt: skip

            try:
                ask()
            except (Exception, BaseExceptionGroup) as error:
                problems.append(f"{role}: {operation.method.upper()} {operation.path}: {str(error)[:600]}")
    assert asked > 80 * len(tokens)
    return problems
