"""The console as the doctor sees it: headless Chromium, the queue live, the case, offline but for our own address."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service as ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import missing
from vitals.floor import database
from yizhan import town
from yizhan.composition import Composition

pytestmark = [pytest.mark.services, pytest.mark.browser]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        missing("browser", "chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(program)
    for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1180,900",
                   "--disable-background-networking",
                   "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path / 'chromium'}"):  # fmt: skip
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=ChromeService(str(driver)))
    yield opened
    opened.quit()


def requested_hosts(browser: webdriver.Chrome) -> set[str]:
    hosts = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = urlsplit(message["params"]["request"]["url"])
            if url.scheme in ("http", "https", "ws", "wss"):
                hosts.add(url.hostname or "")
    return hosts


async def measure(composition: Composition, device: str, systolic: int, diastolic: int, ago: int) -> None:
    await composition.control.ask(do="measure", device=device, systolic=systolic, diastolic=diastolic, pulse=88, seconds_ago=ago)


async def shown(browser: webdriver.Chrome, what: str, seconds: float = 15, where: str = "main") -> None:
    """Wait until the page's text contains `what`."""

    def text(driver: Any) -> bool:
        return what in driver.find_element(By.TAG_NAME, where).text

    await asyncio.to_thread(WebDriverWait(browser, seconds, ignored_exceptions=[Exception]).until, text)


async def gone(browser: webdriver.Chrome, what: str) -> None:
    """Wait until the page's text no longer contains `what`."""

    def absent(driver: Any) -> bool:
        return what not in driver.find_element(By.TAG_NAME, "main").text

    await asyncio.to_thread(WebDriverWait(browser, 15, ignored_exceptions=[Exception]).until, absent)


async def test_a_dangerous_reading_appears_by_itself_and_is_handled_in_the_console(tmp_path: Path, browser: webdriver.Chrome) -> None:
    async with Composition(tmp_path / "data") as composition:
        password = await town.make_password(composition.database_url, "doctor", town.DOCTOR, "dr-zhang")
        await asyncio.to_thread(browser.get, composition.url + "/")
        assert "登录" in browser.title
        browser.find_element(By.ID, "password").send_keys("yz_wrong")
        await click(browser, browser.find_element(By.CSS_SELECTOR, "main button"))
        await shown(browser, "用户名、密码或验证码不对")
        browser.find_element(By.ID, "login").send_keys("dr-zhang")
        browser.find_element(By.ID, "password").send_keys(password)
        await click(browser, browser.find_element(By.CSS_SELECTOR, "main button"))
        await shown(browser, "目前没有待办")
        await shown(browser, "实时更新中")

        # the page is not touched from here on: what appears, appears by itself
        await measure(composition, town.PEOPLE[0][3], 186, 112, 120)
        await shown(browser, "186/112")
        await shown(browser, "待复测")
        await measure(composition, town.PEOPLE[1][3], 168, 111, 60)
        await shown(browser, "168/111")
        await measure(composition, town.PEOPLE[0][3], 188, 113, 0)
        await shown(browser, "复测确认")
        await shown(browser, "告警")
        if target := os.environ.get("YIZHAN_SCREENSHOT_DIR"):
            browser.save_screenshot(str(Path(target) / "queue.png"))

        await follow(browser, town.PEOPLE[0][0])
        await shown(browser, "和(或)舒张压≥110mmHg")  # the clause
        chart = browser.find_element(By.CSS_SELECTOR, ".chart svg")
        assert "2 次测量" in chart.get_attribute("aria-label")
        drawn = chart.find_elements(By.CSS_SELECTOR, ".threshold")
        assert {line.get_attribute("data-metric") for line in drawn} == {"systolic", "diastolic"}
        assert len(chart.find_elements(By.TAG_NAME, "circle")) == 4
        raw = browser.find_element(By.CSS_SELECTOR, "table code").text
        assert raw.startswith("1eba0070"), "the bytes the alert came from"
        await press(browser, "acknowledge")
        await shown(browser, "已知悉")
        await press(browser, "claim")
        await shown(browser, "处理中")
        if target:
            browser.set_window_size(1180, 1900)
            browser.save_screenshot(str(Path(target) / "case.png"))
        fill(browser, "call", why="头晕,已嘱静坐")
        await press(browser, "call")
        await shown(browser, "接通,无不适 头晕")
        fill(browser, "refer", why="血压危急值,复测确认")
        await press(browser, "refer")
        await shown(browser, "已转诊")
        await shown(browser, "市第一医院")

        await log_out(browser)
        await log_in(browser, composition, "hosp-wu")  # the hospital's side
        await shown(browser, town.PEOPLE[0][0])
        await follow(browser, town.PEOPLE[0][0])
        await shown(browser, "达到危急值")  # the criterion that was met
        browser.execute_script("document.querySelector('[name=booked_for]').value = '2099-01-05T09:30'")
        await press(browser, "book")
        await shown(browser, "2099-01-05 09:30")
        await press(browser, "see")
        fill(browser, "report", why="原发性高血压2级;调整为两药联合")
        await press(browser, "report")
        fill(browser, "suggest_down", systolic="130", diastolic="80")
        await press(browser, "suggest_down")
        await shown(browser, "建议下转")
        if target:
            browser.set_window_size(1180, 1200)
            browser.save_screenshot(str(Path(target) / "referral.png"))

        await log_out(browser)
        await log_in(browser, composition, town.DOCTOR)  # and down again
        await follow(browser, "转诊")
        await follow(browser, town.PEOPLE[0][0])
        await shown(browser, "两药联合")
        await press(browser, "accept_down")
        await press(browser, "return")
        await shown(browser, "回到社区")
        await follow(browser, town.PEOPLE[0][0])
        await shown(browser, "goal_systolic 130")  # the hospital's target is a number of this person's rules now
        if target:
            browser.set_window_size(1180, 1500)
            browser.save_screenshot(str(Path(target) / "resident.png"))
        await follow(browser, "已转诊")
        fill(browser, "resolve", why="转诊完成,回社区随访")
        await press(browser, "resolve")
        await shown(browser, "168/111")  # back in the queue, from which the ended case goes by itself
        await gone(browser, "188/113")
        await follow(browser, "任务")
        await shown(browser, "转诊后两周随访")
        assert requested_hosts(browser) <= {"127.0.0.1"}


HEADINGS = {"队列": "待办队列", "转诊": "双向转诊", "任务": "任务清单", "居民": "签约居民", "指标": "指标", "设备": "驿站与设备",
            "规则": "规则包"}  # fmt: skip


async def test_every_role_finds_its_pages_and_another_language(tmp_path: Path, browser: webdriver.Chrome) -> None:
    async with Composition(tmp_path / "data", gateway_process=False) as composition:
        for person, pages in (
            (town.DOCTOR, set(HEADINGS)), ("nurse-zhao", set(HEADINGS)), ("duty-sun", set(HEADINGS)),
            ("hosp-wu", {"转诊", "任务"}), ("sentinel-he", {"任务"}),
        ):  # fmt: skip
            await log_in(browser, composition, person)
            assert set(browser.find_element(By.TAG_NAME, "nav").text.split()) == pages
            for words in sorted(pages):
                await follow(browser, words)
                await shown(browser, HEADINGS[words])
            if person == "sentinel-he":
                browser.find_element(By.NAME, "note").send_keys("头晕,三天未下楼")
                await press(browser, "reports")
                await press(browser, "language")
                await shown(browser, "What is to be done")
            await log_out(browser)
        await log_in(browser, composition, town.DOCTOR)
        await follow(browser, "Work")
        await shown(browser, "三天未下楼")
        await follow(browser, "a sentinel's report")
        await press(browser, "finish")
        await gone(browser, "三天未下楼")


async def test_a_districts_pages_are_small_and_open_down_to_the_readings(tmp_path: Path, browser: webdriver.Chrome) -> None:
    async with Composition(tmp_path / "data", gateway_process=False, residents=240) as composition:
        await log_in(browser, composition, town.DOCTOR)
        for words, heading in HEADINGS.items():
            await follow(browser, words)
            await shown(browser, heading)
            size = "return performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
            sent = browser.execute_script(size + ".reduce((sum, one) => sum + one.transferSize, 0)")
            assert 0 < sent < 300_000, f"{words}: {sent} bytes"
        await follow(browser, "指标")
        await shown(browser, "高血压控制率")
        if target := os.environ.get("YIZHAN_SCREENSHOT_DIR"):
            browser.save_screenshot(str(Path(target) / "indicators.png"))
        await click(browser, browser.find_elements(By.CSS_SELECTOR, "td a")[1])
        await shown(browser, "计入分子")
        assert browser.find_elements(By.CSS_SELECTOR, "tbody a")
        await log_out(browser)
        await log_in(browser, composition, "duty-sun")
        for referral in await sent_referrals(composition):
            await asyncio.to_thread(browser.get, f"{composition.url}/console/referrals/{referral}/evidence")
            await shown(browser, "确认读数")
            assert browser.find_elements(By.CSS_SELECTOR, "td code")
            if target:
                browser.save_screenshot(str(Path(target) / "evidence.png"))
        assert requested_hosts(browser) == {"127.0.0.1"}


async def test_a_resident_sees_their_record_who_looked_and_takes_a_consent_back(tmp_path: Path, browser: webdriver.Chrome) -> None:
    async with Composition(tmp_path / "data", gateway_process=False) as composition:
        who = await town.first(composition.database_url)
        await log_in(browser, composition, town.DOCTOR)
        await asyncio.to_thread(browser.get, f"{composition.url}/console/residents/{who}")
        await shown(browser, town.PEOPLE[0][0])
        await log_out(browser)
        password = await town.make_password(composition.database_url, "resident", who, "wang")
        await asyncio.to_thread(browser.get, composition.url + "/")
        browser.find_element(By.ID, "login").send_keys("wang")
        browser.find_element(By.ID, "password").send_keys(password)
        await click(browser, browser.find_element(By.CSS_SELECTOR, "main button"))
        await shown(browser, town.PEOPLE[0][0])
        assert browser.find_element(By.TAG_NAME, "nav").text.split() == ["我的档案"]
        looks = browser.find_elements(By.CSS_SELECTOR, "ol.log li")
        assert any("doctor-" in one.text for one in looks), "she sees that her doctor looked"
        await press(browser, "consents")
        await shown(browser, "已撤回")
        neighbour = "select resident from resident where resident <> %s limit 1"
        async with await database.connect(composition.database_url) as connection:
            other = (await (await connection.execute(neighbour, (who,))).fetchone() or {})["resident"]
        await asyncio.to_thread(browser.get, f"{composition.url}/console/residents/{other}")
        assert town.PEOPLE[1][0] not in browser.page_source
        assert "unknown_resident" in browser.page_source


async def test_the_three_administrators_have_their_pages(tmp_path: Path, browser: webdriver.Chrome) -> None:
    async with Composition(tmp_path / "data", gateway_process=False) as composition:

        async def come_in(role: str) -> None:
            await asyncio.to_thread(browser.get, composition.url + "/")
            browser.find_element(By.ID, "password").send_keys(await town.make_login(composition.database_url, role, None))
            await click(browser, browser.find_element(By.CSS_SELECTOR, "main button"))

        await come_in("admin")
        await shown(browser, "驿站与设备")
        assert set(browser.find_element(By.TAG_NAME, "nav").text.split()) == {"指标", "设备", "规则", "账号"}
        await log_out(browser)
        await come_in("security")
        await shown(browser, "二次验证")
        browser.find_element(By.NAME, "refers_to").send_keys(town.DOCTOR)
        browser.find_element(By.NAME, "login").send_keys("zhang.new")
        browser.find_element(By.CSS_SELECTOR, "select[name=role]").send_keys("doctor")
        await press(browser, "accounts")
        await shown(browser, "密码只显示这一次")
        password = browser.find_element(By.CSS_SELECTOR, "code.secret").text
        await log_out(browser)
        browser.find_element(By.ID, "login").send_keys("zhang.new")
        browser.find_element(By.ID, "password").send_keys(password)
        await click(browser, browser.find_element(By.CSS_SELECTOR, "main button"))
        await shown(browser, "待办队列")
        await log_out(browser)
        async with await database.connect(composition.database_url) as connection:
            await connection.execute(
                "insert into break_glass (account, resident, why, at, until)"
                " select account, (select resident from resident limit 1), '昏迷送来', now(), now() from account where login = 'zhang.new'"
            )
            await connection.commit()
        await come_in("audit")
        await shown(browser, "昏迷送来")
        await click(browser, browser.find_element(By.CSS_SELECTOR, "button[value=justified]"))
        await shown(browser, "没有待审查的访问")


async def sent_referrals(composition: Composition) -> list[int]:
    """Referrals of the town's centre that a hospital has."""
    async with await database.connect(composition.database_url) as connection:
        cursor = await connection.execute(
            "select referral from referral join care_case using (care_case) join team using (team)"
            " where referral.state in ('accepted', 'booked', 'seen') and team.centre = %s limit 1",
            (town.CENTRE,),
        )
        found = [row["referral"] for row in await cursor.fetchall()]
    assert found
    return found


async def log_in(browser: webdriver.Chrome, composition: Composition, person: str) -> None:
    login = next(row[5] for row in town.PERSONNEL if row[0] == person)
    await asyncio.to_thread(browser.get, composition.url + "/")
    browser.find_element(By.ID, "password").send_keys(await town.make_login(composition.database_url, login, person))
    await click(browser, browser.find_element(By.CSS_SELECTOR, "main button"))
    await shown(browser, person, where="header")


async def log_out(browser: webdriver.Chrome) -> None:
    await press(browser, "logout")
    await shown(browser, "登录")


async def click(browser: webdriver.Chrome, element: Any) -> None:
    """Click what leads to another page, and wait until that has replaced this one."""
    browser.execute_script("window.left = true")
    await asyncio.to_thread(element.click)

    def replaced(driver: Any) -> bool:  # asked of the page itself: an element's handle is answered in several ways while it goes
        return bool(driver.execute_script("return !window.left && document.readyState === 'complete'"))

    await asyncio.to_thread(WebDriverWait(browser, 15, ignored_exceptions=[WebDriverException]).until, replaced)


async def follow(browser: webdriver.Chrome, words: str) -> None:
    await click(browser, browser.find_element(By.PARTIAL_LINK_TEXT, words))


def _form(browser: webdriver.Chrome, action: str) -> Any:
    return browser.find_element(By.CSS_SELECTOR, f'form[action$="/{action}"]')


def fill(browser: webdriver.Chrome, action: str, **fields: str) -> None:
    for name, text in fields.items():
        _form(browser, action).find_element(By.NAME, name).send_keys(text)


async def press(browser: webdriver.Chrome, action: str) -> None:
    await click(browser, _form(browser, action).find_element(By.TAG_NAME, "button"))
