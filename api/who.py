"""What routes ask for: the account with a role, a connection, and whether a resident is theirs to see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from api.accounts import Account
from care import residents
from vitals.errors import Refused
from vitals.floor.database import Connection

_scheme = HTTPBearer(auto_error=False, description="A token printed once by `yizhan`, or made by an administrator")


def role(*roles: str) -> Callable[[Request], Account]:
    """A dependency that lets only these roles in."""

    def check(request: Request, _documented: object = Security(_scheme)) -> Account:
        account: Account | None = getattr(request.state, "account", None)
        if account is None:
            raise Refused("unauthenticated")
        if account.role not in roles:
            raise Refused("forbidden")
        return account

    check.roles = roles  # type: ignore[attr-defined]  # read by the test that tables every route and role
    return check


async def connection(request: Request) -> AsyncIterator[Connection]:
    """One connection, one transaction: committed when the route returns, rolled back when it raises."""
    async with request.app.state.pool.connection() as found:
        yield found


Database = Annotated[Connection, Depends(connection, scope="function")]
Admin = Annotated[Account, Depends(role("admin"))]
Doctor = Annotated[Account, Depends(role("doctor"))]
DoctorOrAdmin = Annotated[Account, Depends(role("doctor", "admin"))]
Station = Annotated[Account, Depends(role("station"))]
ResidentOrAdmin = Annotated[Account, Depends(role("resident", "admin"))]
PersonOrStaff = Annotated[Account, Depends(role("resident", "doctor", "admin"))]
Anyone = Annotated[Account, Depends(role("admin", "doctor", "station", "resident"))]


async def may_see(connection: Connection, account: Account, resident: str) -> dict[str, object]:
    """The resident, if this account may see it: the person, the signed team, an administrator.

    Raises Refused `unknown_resident` otherwise: whether somebody exists is nobody else's business.
    """
    found = await residents.get(connection, resident)
    if found is not None and (
        account.role == "admin"
        or (account.role == "resident" and account.refers_to == resident)
        or (account.role == "doctor" and found["team"] is not None and found["team"] == account.team)
    ):
        return found
    raise Refused("unknown_resident")
