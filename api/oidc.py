"""OpenID Connect: who somebody is, said by an issuer outside (any that publishes its configuration); what they may do is decided here.

The authorization code flow with PKCE for the console, and the issuer's tokens as bearers for the API. An account must have been made for
the name first (`external`): an issuer's word opens no door by itself. Signatures are checked by joserfc, with asymmetric algorithms only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from vitals.errors import Refused, Unavailable

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
KEEP = 600.0  # s that an issuer's configuration and keys are good for
AGAIN = 30.0  # s at least between two looks for a key we do not know
LEEWAY = 60  # s between its clock and ours
PATIENCE = 5.0  # s for each of its answers


class Begun(NamedTuple):
    """A login under way: where the browser goes, and what must come back with it."""

    address: str
    state: str
    nonce: str
    verifier: str


class Issuer:
    """One issuer, as its own configuration describes it. claim: which of its words is the name of our account."""

    def __init__(self, issuer: str, client: str, secret: str | None, claim: str) -> None:
        self._issuer, self._client, self._secret, self._claim = issuer.rstrip("/"), client, secret, claim
        self._known: dict[str, Any] = {}
        self._keys = KeySet([])
        self._read_at = self._looked_at = float("-inf")

    async def begin(self, back: str) -> Begun:
        """Send somebody to the issuer. back: our address that the issuer sends them back to. Raises Unavailable."""
        await self._read()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code", "client_id": self._client, "redirect_uri": back, "scope": "openid profile", "state": state,
            "nonce": nonce, "code_challenge": challenge, "code_challenge_method": "S256",
        }  # fmt: skip
        return Begun(f"{self._known['authorization_endpoint']}?{urlencode(query)}", state, nonce, verifier)

    async def finish(self, code: str, back: str, begun: Begun) -> str:
        """The name that the issuer gives whoever came back with a code. Raises Refused `bad_token`, Unavailable."""
        await self._read()
        fields = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": back, "client_id": self._client,
            "code_verifier": begun.verifier, **({"client_secret": self._secret} if self._secret else {}),
        }  # fmt: skip
        answer = await self._ask("POST", self._known["token_endpoint"], data=fields)
        if not answer.is_success:
            raise Refused("bad_token")
        return await self.name(str(answer.json().get("id_token", "")), nonce=begun.nonce)

    async def name(self, token: str, nonce: str | None = None) -> str:
        """The name in a token of this issuer for us, signed and in its time. Raises Refused `bad_token`, Unavailable."""
        await self._read()
        try:
            claims = jwt.decode(token, await self._keys_for(token), algorithms=ALGORITHMS).claims
            rules = jwt.JWTClaimsRegistry(
                leeway=LEEWAY, iss={"essential": True, "value": self._known["issuer"]}, aud={"essential": True, "value": self._client},
                exp={"essential": True},
            )  # fmt: skip
            rules.validate(claims)
            if nonce is not None and claims.get("nonce") != nonce:
                raise ValueError("another login's")
        except (JoseError, ValueError, KeyError, TypeError):
            raise Refused("bad_token") from None
        name = claims.get(self._claim)
        if not isinstance(name, str) or not name:
            raise Refused("bad_token")
        return name

    async def _keys_for(self, token: str) -> KeySet:
        """The issuer's keys; read again, now and then, for a token that names one we do not know."""
        try:
            kid = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "==")).get("kid")
        except (ValueError, AttributeError):
            raise Refused("bad_token") from None
        known = {key.kid for key in self._keys.keys}
        if kid is not None and kid not in known and time.monotonic() > self._looked_at + AGAIN:
            await self._read(again=True)
        return self._keys

    async def _read(self, *, again: bool = False) -> None:
        now = time.monotonic()
        if not again and now < self._read_at + KEEP:
            return
        self._looked_at = now
        try:
            known = (await self._ask("GET", f"{self._issuer}/.well-known/openid-configuration")).json()
            if known["issuer"].rstrip("/") != self._issuer:
                raise Unavailable("the issuer's configuration names another issuer")
            keys = KeySet.import_key_set((await self._ask("GET", known["jwks_uri"])).json())
        except (ValueError, KeyError, TypeError, AttributeError, JoseError) as error:
            raise Unavailable("the issuer's configuration is none") from error
        self._keys, self._known, self._read_at = keys, known, now

    async def _ask(self, method: str, address: str, **more: Any) -> httpx.Response:
        try:
            async with httpx.AsyncClient(timeout=PATIENCE) as client:
                answer = await client.request(method, address, **more)
        except httpx.HTTPError as error:
            raise Unavailable("the issuer") from error
        if answer.status_code >= 500:
            raise Unavailable("the issuer")
        return answer
