"""What routes ask for: the account with a role, a connection, and whether a resident is theirs to see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi import Security as SecurityScheme
from fastapi.security import HTTPBearer

from api import glass, looked, wall
from api.accounts import DECIDES, ROLES, TEAM_ROLES, Account
from api.guard import PUBLIC
from care import consents, referrals, residents
from vitals.errors import Refused
from vitals.floor.database import Connection

_scheme = HTTPBearer(auto_error=False, description="A token printed once by `yizhan`, or made by an administrator")


def role(*roles: str) -> Callable[[Request], Account]:
    """A dependency that lets only these roles in."""

    def check(request: Request, _documented: object = SecurityScheme(_scheme)) -> Account:
        account: Account | None = getattr(request.state, "account", None)
        if account is None:
            raise Refused("unauthenticated")
        if account.role not in roles:
            raise Refused("forbidden")
        return account

    check.roles = roles  # type: ignore[attr-defined]  # read by the test that tables every route and role
    return check


async def connection(request: Request) -> AsyncIterator[Connection]:
    """One connection, one transaction: committed when the route returns, rolled back when it raises.

    Whose data was looked at on the way is in the audit log before the answer leaves; what cannot be written there is not answered.
    """
    seen = looked.begin()
    async with request.app.state.pool.connection() as found:
        account: Account | None = getattr(request.state, "account", None)
        if account is not None and request.url.path not in PUBLIC:  # who logs in, or redeems a code, is nobody yet
            await wall.enter(found, account.account)
        yield found
        if account is not None and seen.others(account):
            await looked.write(request.app, [looked.entry(account, f"{request.method} {request.url.path}", seen)])


Database = Annotated[Connection, Depends(connection, scope="function")]
Admin = Annotated[Account, Depends(role("admin"))]
Community = Annotated[Account, Depends(role(*TEAM_ROLES))]  # who works a team's queue
CommunityOrAdmin = Annotated[Account, Depends(role(*TEAM_ROLES, "admin"))]
AdminOrSupervisor = Annotated[Account, Depends(role("admin", "supervisor"))]
Finder = Annotated[Account, Depends(role("station", *TEAM_ROLES, "admin"))]
Staff = Annotated[Account, Depends(role(*TEAM_ROLES, "hospital", "sentinel"))]
Doctor = Annotated[Account, Depends(role(*DECIDES))]  # decides: refers, ends, dismisses
Sentinel = Annotated[Account, Depends(role("sentinel"))]
DoctorOrHospital = Annotated[Account, Depends(role(*DECIDES, "hospital"))]
ReferralSide = Annotated[Account, Depends(role(*TEAM_ROLES, "hospital"))]
Security = Annotated[Account, Depends(role("security", "admin"))]
Auditor = Annotated[Account, Depends(role("audit"))]
PersonOrAuditor = Annotated[Account, Depends(role("resident", "audit"))]
Station = Annotated[Account, Depends(role("station"))]
ResidentOrAdmin = Annotated[Account, Depends(role("resident", "admin"))]
Hospital = Annotated[Account, Depends(role("hospital"))]
PersonOrReferralSide = Annotated[Account, Depends(role("resident", *TEAM_ROLES, "hospital"))]
PersonOrCommunity = Annotated[Account, Depends(role("resident", *TEAM_ROLES))]
PersonOrStaff = Annotated[Account, Depends(role("resident", *TEAM_ROLES, "hospital", "admin"))]
Anyone = Annotated[Account, Depends(role(*ROLES))]


async def may_see(connection: Connection, account: Account, resident: str) -> dict[str, Any]:
    """The resident, if this account may see it.

    The person and a guardian; the signed team, who covers it and the centre's duty; whoever works the case of somebody unsigned; a
    hospital with an open referral; an administrator. Raises Refused `unknown_resident` otherwise: whether somebody exists is nobody
    else's business.
    """
    found = await residents.get(connection, resident)
    if found is not None and (
        account.role == "admin"
        or (account.role == "resident" and account.refers_to is not None and await _theirs(connection, account.refers_to, resident))
        or (account.role in TEAM_ROLES and await residents.with_team(connection, resident, found["team"], account.teams))
        or (account.role == "hospital" and await _referred(connection, resident, account.places))
        or (account.role in DECIDES and await glass.broken(connection, account.account, resident))
    ):
        looked.at(resident)
        return found
    raise Refused("unknown_resident")


async def _theirs(connection: Connection, person: str, resident: str) -> bool:
    if person == resident:
        return True
    guards = await residents.guards(connection, person, resident, datetime.now(UTC).date())
    return guards and await consents.holds(connection, resident, "guardian")


async def _referred(connection: Connection, resident: str, hospitals: Sequence[str]) -> bool:
    return await referrals.sent_to(connection, resident, hospitals) and await consents.holds(connection, resident, "hospital")


def zone_of(request: Request) -> str:
    """The zone of this deployment's days."""
    zone: str = request.app.state.zone
    return zone


Zone = Annotated[str, Depends(zone_of)]
