"""Chinese identity numbers, and how what names a person is kept: sealed, and found again by a keyed digest only.

The 18-digit number's check is ISO 7064 MOD 11-2 (GB 11643). Sealing is AES-256-GCM with the owner's opaque id and the field's kind as
associated data: a sealed value copied to another person does not open. The lookup digest is HMAC-SHA-256 under a key of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import date
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vitals.errors import BadInput, ConfigError

KINDS = ("id_card", "social_security", "health_card", "phone", "address")
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS = "10X98765432"
_NONCE = 12


class IdCard(NamedTuple):
    """What an 18-digit number says of its holder."""

    number: str
    birth_date: date
    sex: str


def id_card(text: str, today: date) -> IdCard:
    """Read an identity number; raises BadInput `bad_id_number` (form, check digit, or a birth date that is none)."""
    number = text.strip().upper()
    if not re.fullmatch(r"[1-9]\d{16}[\dX]", number) or number[17] != check_digit(number):
        raise BadInput("bad_id_number")
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        raise BadInput("bad_id_number") from None
    if not date(1880, 1, 1) <= born <= today:
        raise BadInput("bad_id_number")
    return IdCard(number, born, "male" if int(number[16]) % 2 else "female")


def check_digit(number: str) -> str:
    """The last character of an identity number, from its first seventeen digits."""
    return _CHECKS[sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, number, strict=False)) % 11]


def normal(kind: str, text: str, today: date) -> str:
    """One spelling for one value. Raises BadInput `bad_id_number`, `bad_identity`."""
    if kind == "id_card":
        return id_card(text, today).number
    plain = text.strip() if kind == "address" else re.sub(r"[\s-]", "", text).upper()
    if kind not in KINDS or not 0 < len(plain) <= 200 or (kind == "phone" and not re.fullmatch(r"\+?\d{5,15}", plain)):
        raise BadInput("bad_identity", kind)
    return plain


class Seal:
    """Seals and opens fields under one secret of this deployment."""

    def __init__(self, secret: str) -> None:
        if len(secret) < 24:
            raise ConfigError(["YIZHAN_FIELD_KEY: shorter than 24 characters"])
        self._cipher = AESGCM(self._derived(secret, b"seal"))
        self._index = self._derived(secret, b"lookup")

    @staticmethod
    def _derived(secret: str, purpose: bytes) -> bytes:
        return hmac.digest(secret.encode(), b"yizhan field " + purpose, "sha256")

    def seal(self, owner: str, kind: str, text: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, text.encode(), f"{owner}|{kind}".encode())

    def open(self, owner: str, kind: str, sealed: bytes) -> str:
        """Raises BadInput `cannot_open` for another owner's, another key's, or damaged bytes."""
        try:
            return self._cipher.decrypt(bytes(sealed[:_NONCE]), bytes(sealed[_NONCE:]), f"{owner}|{kind}".encode()).decode()
        except InvalidTag:
            raise BadInput("cannot_open", kind) from None

    def lookup(self, kind: str, text: str) -> bytes:
        """What finds a value again; 128 bits."""
        return hmac.digest(self._index, f"{kind}|{text}".encode(), hashlib.sha256)[:16]
