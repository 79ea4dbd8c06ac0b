"""Passwords as brokers check them: PBKDF2-SHA512 in mosquitto's `$7$` form, made and verified with the standard library."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

ITERATIONS = 20_000


def _derive(password: str, salt: bytes, iterations: int) -> str:
    return base64.b64encode(hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)).decode()


def hashed(password: str) -> str:
    """`$7$iterations$salt$hash`, both base64."""
    salt = os.urandom(12)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${_derive(password, salt, ITERATIONS)}"


def matches(password: str, stored: str) -> bool:
    """Whether a password is the stored one; False for anything malformed."""
    try:
        _, kind, iterations, salt, digest = stored.split("$")
        return kind == "7" and hmac.compare_digest(_derive(password, base64.b64decode(salt), int(iterations)), digest)
    except (ValueError, TypeError):
        return False
