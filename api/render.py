"""How a page of the console is made: templates, the words of both languages, local times. Chinese first; a cookie says otherwise."""

from __future__ import annotations

from datetime import UTC, date, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

from fastapi import Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates

from api.accounts import TEAM_ROLES, Account
from care.case import CALLS
from care.task import KINDS, OUTCOMES
from rules.facts import age_years
from vitals.errors import BadInput, Refused
from vitals.metric import METRICS

templates = Jinja2Templates(directory=Path(str(files("api").joinpath("templates"))))
LANGUAGE = "yizhan_language"

Words = dict[str, tuple[str, str]]
STATES: Words = {
    "pending": ("待复测", "waiting for a repeat"), "firing": ("告警", "alert"), "unconfirmed": ("复测未确认", "not confirmed"),
    "cleared": ("已解除", "cleared"), "closed": ("已关闭", "closed"),
    "open": ("待处理", "open"), "acknowledged": ("已知悉", "acknowledged"), "claimed": ("处理中", "claimed"),
    "referred": ("已转诊", "referred"), "resolved": ("已结案", "resolved"), "dismissed": ("已排除", "dismissed"),
    "waiting": ("待通知", "to come"), "told": ("已通知", "told"), "stopped": ("已停止", "stopped"),
    "done": ("已完成", "done"), "dropped": ("已取消", "dropped"),
}  # fmt: skip
STAGES: Words = {
    "suggested": ("建议转诊", "suggested"), "accepted": ("医生已同意", "accepted by the doctor"), "rejected": ("未转诊", "rejected"),
    "booked": ("已预约", "booked"), "seen": ("已接诊", "seen"), "outcome": ("已出诊疗意见", "hospital reported"),
    "down_suggested": ("建议下转", "down-referral suggested"), "down_accepted": ("社区已接收", "taken back"),
    "community": ("回到社区", "back in the community"), "cancelled": ("已取消", "cancelled"),
}  # fmt: skip
WHYS: Words = {
    "opened": ("首次危急值", "first danger value"), "confirmed": ("复测确认", "confirmed by a repeat"),
    "deadline": ("到期未复测", "no repeat came"), "unverified": ("来源未验证", "unverified source"),
    "urgent": ("伴危险症状或妊娠哺乳", "with symptoms, pregnancy or lactation"), "late": ("迟到数据", "late data"),
    "repeated": ("连续两次", "twice in a row"), "at_once": ("危急值", "danger value"), "worsened": ("加重", "worse"),
    "silent": ("未按计划测量", "did not measure as planned"), "retracted": ("读数归属更正", "readings were somebody else's"),
    "reevaluated": ("重新评估", "looked at again"), "not_confirmed": ("复测未确认", "the repeat did not confirm"),
    "appended": ("追加读数", "another value"), "cleared": ("恢复", "recovered"), "closed": ("人工结束", "ended by a person"),
}  # fmt: skip
WHATS: Words = {
    "opened": ("建立", "opened"), "alert": ("告警变化", "alert moved"), "paged": ("开始通知", "people are called"),
    "told": ("已通知", "told"),
    "acknowledge": ("知悉", "acknowledged"), "claim": ("认领", "claimed"), "release": ("放回队列", "released"),
    "note": ("记录", "note"),
    "call": ("电话", "call"), "hand_over": ("转交", "handed over"), "snooze": ("稍后处理", "put off"), "refer": ("转诊", "referred"),
    "resolve": ("结案", "resolved"), "dismiss": ("排除", "dismissed"),
}  # fmt: skip
SETTINGS: Words = {
    "clinic": ("诊室", "clinic"), "kiosk": ("驿站", "station"), "home": ("家庭", "home"), "wearable": ("穿戴", "wearable"),
    "cuffless": ("无袖带", "cuffless"), "manual": ("手工录入", "typed in"),
}  # fmt: skip
QUALITIES: Words = {
    "synced": ("时间准确", "clock right"),
    "estimated": ("时间推算", "time estimated"),
    "untrusted": ("时间不可信", "time unknown"),
}
ROLES: Words = {
    "doctor": ("签约医生", "signed doctor"), "deputy": ("团队成员", "the team"), "team_lead": ("团队长", "team lead"),
    "centre_duty": ("中心值班", "centre's duty"), "supervisor": ("中心主管", "supervisor"), "owner": ("负责人", "owner"),
    "family_doctor": ("家庭医生", "family doctor"), "nurse": ("护士", "nurse"), "hospital": ("医院", "hospital"),
    "sentinel": ("健康哨兵", "sentinel"),
}  # fmt: skip
PROBLEMS: Words = {
    "stale_version": ("别人刚刚更新了,请核对后再操作", "somebody else just changed this; look again"),
    "bad_code": ("验证码不对,请重新扫描", "wrong code; scan again"),
    "wrong_state": ("当前状态不能这样操作", "not possible in this state"), "incomplete": ("请填写完整", "something is missing"),
    "wrong_side": ("这一步由另一方完成", "this step is the other side's"), "cannot_wait": ("P1 不能推迟", "P1 is not put off"),
    "already_referred": ("已有进行中的转诊", "a referral is under way"),
    "unknown_hospital": ("请选择医院", "choose a hospital"), "unknown_doctor": ("请选择接收的同事", "choose a colleague"),
    "outside_clamp": ("目标超出允许范围(只能更严格)", "outside what may be set: stricter only"),
    "not_their_measurement": ("不是该居民的设备读数", "not a device's measurement of this resident"),
    "already_reported": ("今天已上报", "reported today already"),
}  # fmt: skip
SEXES: Words = {"male": ("男", "male"), "female": ("女", "female")}
LEVELS = {"team": ("团队", "team"), "centre": ("中心", "centre"), "grid": ("网格", "grid"), "district": ("区县", "district")}
TABLES = {
    "states": STATES, "stages": STAGES, "whys": WHYS, "whats": WHATS, "settings": SETTINGS, "qualities": QUALITIES, "roles": ROLES,
    "levels": LEVELS, "sexes": SEXES, "calls": CALLS, "kinds": KINDS, "outcomes": OUTCOMES,
}  # fmt: skip


def _context(request: Request, **more: Any) -> dict[str, Any]:
    zone = ZoneInfo(request.app.state.zone)
    account: Account | None = getattr(request.state, "account", None)
    english = request.cookies.get(LANGUAGE) == "en"

    def clock(moment: datetime | str | None, form: str = "%m-%d %H:%M") -> str:
        if moment is None:
            return ""
        return (datetime.fromisoformat(moment) if isinstance(moment, str) else moment).astimezone(zone).strftime(form)

    def age(born: date | None) -> str:
        years = age_years(born.isoformat(), datetime.now(zone).date()) if born else None
        return "" if years is None else (f"{years} y" if english else f"{years}岁")

    def t(zh: str, en: str) -> str:
        return en if english else zh

    def word(table: str, key: str | None) -> str:
        pair = TABLES[table].get(key or "")
        return pair[english] if pair else (key or "")

    def told(explanation: dict[str, Any], name: str = "") -> str:
        """A sentence of a pack in the reader's language: name "" is the sentence itself."""
        stem = f"{name}_" if name else ""
        return explanation.get(f"{stem}{'en' if english else 'zh'}") or ""

    def metric(code: str) -> str:
        return (METRICS[code].en if english else METRICS[code].zh) if code in METRICS else code

    return {
        "account": account, "clock": clock, "age": age, "now": datetime.now(UTC), "t": t, "word": word, "told": told, "metric": metric,
        "english": english, "tables": TABLES, "units": {code: one.unit for code, one in METRICS.items()},
        "community": account is not None and account.role in TEAM_ROLES, **more,
    }  # fmt: skip


def page(request: Request, name: str, status: int = 200, **context: Any) -> HTMLResponse:
    return templates.TemplateResponse(request, name, _context(request, **context), status)


def sorry(error: Refused | BadInput | ValueError) -> tuple[str, str]:
    """What went wrong in the page's words (zh, en); the stable reason where there are none."""
    reason = getattr(error, "reason", "not_valid")
    return PROBLEMS.get(reason) or (getattr(error, "detail", "") or reason, getattr(error, "detail", "") or reason)


async def form(request: Request) -> dict[str, str]:
    body = (await request.body()).decode("utf-8", "replace")
    return {name: values[0].replace("\0", "").strip() for name, values in parse_qs(body, max_num_fields=40).items()}


def needed(fields: dict[str, str], *names: str) -> list[str]:
    """These fields, none of them empty; raises Refused `incomplete`."""
    if any(not fields.get(name) for name in names):
        raise Refused("incomplete", ", ".join(names))
    return [fields[name][:4000] for name in names]
