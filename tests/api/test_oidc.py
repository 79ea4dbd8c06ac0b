"""Logins of an identity provider outside: the code flow with PKCE, its tokens as bearers, and everything that must not pass for one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from api import accounts
from api.app import create_app
from api.events import account_lives
from api.guard import COOKIE, whose
from tests.api.test_http import behind
from tests.ingest.helpers import FIELD_KEY, Clinic
from vitals.floor import database
from vitals.settings import Settings
from yizhan import town
from yizhan.composition import free_port

pytestmark = pytest.mark.services
CLIENT = "yizhan"


class Provider:
    """An identity provider: it publishes its configuration and keys, and gives a token for a code and its verifier."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "one"})
        self.address = f"http://127.0.0.1:{(port := free_port())}"
        self.name, self.challenge, self.nonce = "zhang@hospital", "", ""
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        async def configuration() -> dict[str, str]:
            ends = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
            return {"issuer": self.address} | {name: f"{self.address}/{end}" for name, end in ends.items()}

        @app.get("/keys")
        async def keys() -> Any:
            return KeySet([self.key]).as_dict(private=False)

        @app.post("/token")
        async def token(request: Request) -> Any:
            fields = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
            made = base64.urlsafe_b64encode(hashlib.sha256(fields["code_verifier"].encode()).digest()).rstrip(b"=").decode()
            assert (fields["client_id"], fields["client_secret"], made) == (CLIENT, "a secret of ours", self.challenge)
            return {"id_token": self.token(nonce=self.nonce), "token_type": "Bearer"}

        self.server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))

    def token(self, key: Any = None, algorithm: str = "RS256", **changed: Any) -> str:
        now = int(time.time())
        claims = {"iss": self.address, "aud": CLIENT, "exp": now + 300, "iat": now, "preferred_username": self.name} | changed
        header = {"alg": algorithm, "kid": "one"}
        return jwt.encode(header, {k: v for k, v in claims.items() if v is not None}, key or self.key, algorithms=[algorithm])


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    made = Provider()
    serving = asyncio.create_task(made.server._serve())
    while not made.server.started:
        await asyncio.sleep(0.01)
    yield made
    made.server.should_exit = True
    await serving


@pytest.fixture
async def browser(clinic: Clinic, provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody's browser before an application that trusts the provider; dr-zhang has an account there."""
    settings = Settings(
        api_database_url=behind(clinic.conninfo), field_key=FIELD_KEY, oidc_issuer=provider.address, oidc_client=CLIENT,
        oidc_secret="a secret of ours",
    )  # type: ignore[arg-type, call-arg]  # fmt: skip
    async with await database.connect(clinic.conninfo) as connection:
        await accounts.create_login(connection, "doctor", town.DOCTOR, "zhang@hospital", None)
        await accounts.create_login(connection, "nurse", "nurse-zhao", "zhao", "a long enough one")
        await connection.commit()
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://yizhan.test") as client,
    ):
        yield client


async def sent_there(browser: httpx.AsyncClient, provider: Provider) -> dict[str, str]:
    """To the provider: what the address asks it for."""
    answer = await browser.get("/console/oidc")
    where = urlsplit(answer.headers["location"])
    assert f"{where.scheme}://{where.netloc}{where.path}" == f"{provider.address}/authorize"
    asked = {name: values[0] for name, values in parse_qs(where.query).items()}
    assert (asked["client_id"], asked["redirect_uri"]) == (CLIENT, "http://yizhan.test/console/oidc/back")
    provider.challenge, provider.nonce = asked["code_challenge"], asked["nonce"]
    return asked


async def test_a_doctor_comes_in_by_the_providers_word_and_out_again(browser: httpx.AsyncClient, provider: Provider) -> None:
    assert "/console/oidc" in (await browser.get("/console/login")).text
    asked = await sent_there(browser, provider)
    answer = await browser.get("/console/oidc/back", params={"code": "c", "state": asked["state"]})
    assert answer.status_code == 200
    assert "url=/console/queue" in answer.text
    assert "HttpOnly" in next(one for one in answer.headers.get_list("set-cookie") if one.startswith(COOKIE))
    assert "待办队列" in (await browser.get("/console/queue")).text
    await browser.post("/console/logout")
    assert (await browser.get("/console/queue")).status_code == 303


async def test_what_another_login_began_does_not_finish_this_one(browser: httpx.AsyncClient, provider: Provider) -> None:
    asked = await sent_there(browser, provider)
    assert (await browser.get("/console/oidc/back", params={"code": "c", "state": "another"})).status_code == 403
    provider.nonce = "another"
    assert (await browser.get("/console/oidc/back", params={"code": "c", "state": asked["state"]})).status_code == 403
    browser.cookies.clear()
    assert (await browser.get("/console/oidc/back", params={"code": "c", "state": asked["state"]})).status_code == 403


def application(browser: httpx.AsyncClient) -> FastAPI:
    transport: Any = browser._transport
    app: FastAPI = transport.app
    return app


def _claims(provider: Provider) -> bytes:
    """What a good token says."""
    part = provider.token().split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


async def test_the_providers_token_is_a_bearer_and_nothing_like_it_is(
    browser: httpx.AsyncClient, provider: Provider, clinic: Clinic
) -> None:
    async def status(token: str) -> int:
        return (await browser.get("/v1/queue", headers={"Authorization": f"Bearer {token}"})).status_code

    assert await status(provider.token()) == 200
    head, body = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg":"HS256","kid":"one"}', _claims(provider)))
    secret = hmac.digest(provider.key.as_pem(private=False), f"{head}.{body}".encode(), "sha256")
    confused = f"{head}.{body}.{base64.urlsafe_b64encode(secret).decode().rstrip('=')}"
    unsigned = ".".join([base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("="), *provider.token().split(".")[1:2], ""])
    for wrong in (
        provider.token(exp=int(time.time()) - 3600), provider.token(exp=None), provider.token(aud="another"), provider.token(aud=None),
        provider.token(iss="https://elsewhere.example"), provider.token(key=RSAKey.generate_key(2048)),
        confused, unsigned, "a.b.c", provider.token(preferred_username="nobody"),
        provider.token(preferred_username="zhao"), provider.token(preferred_username=None), provider.token(preferred_username=["zhang@hospital"]),
    ):  # fmt: skip
        assert await status(wrong) == 401
    held = provider.token()
    async with await database.connect(clinic.conninfo) as connection:
        account = await whose(application(browser), connection, held)
        assert account is not None
        asking = Request({"type": "http", "app": application(browser), "state": {"token": held}})
        assert await account_lives(asking, account), "a stream that it opened stays open"
        await clinic.run("update account set revoked_at = now() where external")
        assert not await account_lives(asking, account)
    assert await status(held) == 401


async def test_without_the_provider_the_answer_is_come_back_later_and_ours_still_come_in(
    browser: httpx.AsyncClient, provider: Provider
) -> None:
    provider.server.should_exit = True
    await asyncio.sleep(0.3)
    answer = await browser.get("/v1/queue", headers={"Authorization": f"Bearer {provider.token()}"})
    assert answer.status_code == 503
    answer = await browser.post("/console/login", data={"login": "zhao", "password": "a long enough one", "code": ""})
    assert answer.status_code == 303
    assert (await browser.post("/console/login", data={"login": "zhang@hospital", "password": "", "code": ""})).status_code == 403
