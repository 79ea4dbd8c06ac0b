"""The console: the queue, live, and the case. Chinese first, server-rendered, works without scripts but for liveness."""

from __future__ import annotations

from datetime import UTC, date, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from markupsafe import Markup

from api import accounts
from api.accounts import Account
from api.events import QUEUE_LIMIT
from api.guard import COOKIE
from api.queue import CaseView, draw, end, seen_case, view
from api.who import Database, Doctor, DoctorOrAdmin
from care import cases
from rules.facts import age_years
from vitals.errors import Refused
from vitals.metric import METRICS

router = APIRouter(include_in_schema=False)
templates = Jinja2Templates(directory=Path(str(files("api").joinpath("templates"))))

STATE_WORDS = {
    "pending": ("待复测", "waiting for a repeat"), "firing": ("告警", "alert"), "unconfirmed": ("复测未确认", "not confirmed"),
    "cleared": ("已解除", "cleared"), "closed": ("已关闭", "closed"),
    "open": ("待处理", "open"), "acknowledged": ("已知悉", "acknowledged"), "claimed": ("处理中", "claimed"),
    "referred": ("已转诊", "referred"), "resolved": ("已结案", "resolved"), "dismissed": ("已排除", "dismissed"),
}  # fmt: skip
WHY_WORDS = {
    "opened": "首次危急值", "confirmed": "复测确认", "deadline": "到期未复测", "unverified": "来源未验证", "urgent": "伴危险症状或妊娠哺乳",
    "late": "迟到数据", "repeated": "连续两次", "at_once": "危急值", "worsened": "加重",
    "retracted": "读数归属更正", "reevaluated": "重新评估",
    "not_confirmed": "复测未确认", "appended": "追加读数", "cleared": "恢复", "closed": "人工结束",
}  # fmt: skip
WHAT_WORDS = {
    "opened": "建立", "alert": "告警变化", "paged": "通知医生", "acknowledged": "知悉", "claimed": "认领", "referred": "转诊",
    "resolved": "结案", "dismissed": "排除",
}  # fmt: skip
SETTING_WORDS = {"clinic": "诊室", "kiosk": "驿站", "home": "家庭", "wearable": "穿戴", "cuffless": "无袖带", "manual": "手工录入"}
QUALITY_WORDS = {"synced": "时间准确", "estimated": "时间推算", "untrusted": "时间不可信"}
SEX_WORDS = {"male": "男", "female": "女", None: ""}


def _context(request: Request, **more: Any) -> dict[str, Any]:
    zone = ZoneInfo(request.app.state.zone)
    account: Account | None = getattr(request.state, "account", None)

    def clock(moment: datetime | str | None, form: str = "%m-%d %H:%M:%S") -> str:
        if moment is None:
            return ""
        return (datetime.fromisoformat(moment) if isinstance(moment, str) else moment).astimezone(zone).strftime(form)

    def age(born: date | None) -> str:
        return f"{age_years(born.isoformat(), datetime.now(zone).date())}岁" if born else ""

    words = {
        "states": STATE_WORDS, "whys": WHY_WORDS, "whats": WHAT_WORDS, "settings": SETTING_WORDS, "qualities": QUALITY_WORDS,
        "sexes": SEX_WORDS, "metrics": METRICS,
    }  # fmt: skip
    return {"account": account, "clock": clock, "age": age, "now": datetime.now(UTC), **words, **more}


def _page(request: Request, name: str, status: int = 200, **context: Any) -> HTMLResponse:
    return templates.TemplateResponse(request, name, _context(request, **context), status)


@router.get("/")
async def root() -> Response:
    return RedirectResponse("/console/queue", 303)


@router.get("/console/login")
async def login_page(request: Request) -> Response:
    return _page(request, "login.html", wrong=False)


@router.post("/console/login")
async def log_in(request: Request, connection: Database) -> Response:
    """Exchange a token for a cookie that scripts cannot read and other sites cannot send."""
    token = (await _form(request)).get("token", "")
    account = await accounts.by_token(connection, token)
    if account is None or account.role not in ("doctor", "admin"):
        return _page(request, "login.html", 403, wrong=True)
    response = RedirectResponse("/console/queue", 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, max_age=12 * 3600)
    return response


@router.post("/console/logout")
async def log_out(_account: DoctorOrAdmin) -> Response:
    response = RedirectResponse("/console/login", 303)
    response.delete_cookie(COOKIE)
    return response


@router.get("/console/queue")
async def queue_page(request: Request, account: DoctorOrAdmin, connection: Database) -> Response:
    return _page(request, "queue.html", rows=await cases.queue(connection, account.team, QUEUE_LIMIT))


@router.get("/console/queue/rows")
async def queue_rows(request: Request, account: DoctorOrAdmin, connection: Database) -> Response:
    """The table's body alone: what the page fetches when the event stream says that something moved."""
    return _page(request, "rows.html", rows=await cases.queue(connection, account.team, QUEUE_LIMIT))


@router.get("/console/cases/{number}")
async def case_page(number: int, request: Request, account: DoctorOrAdmin, connection: Database) -> Response:
    found = await view(connection, account, number)
    return await _case(request, connection, found)


async def _case(request: Request, connection: Database, found: CaseView, problem: str = "", status: int = 200) -> Response:
    svg = await draw(connection, found, request.app.state.zone, datetime.now(UTC))
    return _page(request, "case.html", status, found=found, case=found.case, chart=Markup(svg), problem=problem)  # noqa: S704  our own SVG, escaped


@router.post("/console/cases/{number}/{action}")
async def act(number: int, action: str, request: Request, account: Doctor, connection: Database) -> Response:
    """A button of the case page: the same functions the HTTP API calls."""
    form = await _form(request)
    why, now = form.get("why", "").strip()[:1000], datetime.now(UTC)
    await seen_case(connection, account, number)
    try:
        version = int(form.get("version", "0"))
        match action:
            case "acknowledge" | "claim":
                await cases.act(connection, number, version, action, str(account.refers_to), now)
            case "refer":
                hospital = form.get("hospital", "").strip()[:200]
                if not hospital or not why:
                    raise Refused("incomplete", "请填写医院和理由")
                await cases.refer(connection, number, version, str(account.refers_to), hospital, "emergency", why, now)
            case "resolve" | "dismiss":
                if not why:
                    raise Refused("incomplete", "请填写理由")
                await end(connection, account, number, version, action, why)
            case _:
                raise Refused("unknown_action")
    except (Refused, ValueError) as error:
        await connection.rollback()
        words = {"stale_version": "别人刚刚更新了这个病例,请核对后再操作", "wrong_state": "当前状态不能这样操作"}
        reason = getattr(error, "reason", "not_valid")
        found = await view(connection, account, number)
        return await _case(request, connection, found, words.get(reason) or getattr(error, "detail", "") or reason, 409)
    # an ended case leaves the queue a moment later, before the doctor's eyes; every other action stays with the case
    return RedirectResponse("/console/queue" if action in ("resolve", "dismiss") else f"/console/cases/{number}", 303)


async def _form(request: Request) -> dict[str, str]:
    body = (await request.body()).decode("utf-8", "replace")
    return {name: values[0] for name, values in parse_qs(body, max_num_fields=20).items()}
