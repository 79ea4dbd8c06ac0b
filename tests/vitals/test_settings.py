"""Settings: every problem at once, and no secret ever printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitals.errors import ConfigError
from vitals.settings import Settings, load

SECRET = "a-very-secret-password"


def problems(**environment: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        load({f"YIZHAN_{name.upper()}": value for name, value in environment.items()})
    return error.value.problems


def test_defaults_are_those_of_one_machine() -> None:
    assert load({}) == Settings()


def test_everything_wrong_is_told_at_once_and_no_value_with_it(tmp_path: Path) -> None:
    open_file = tmp_path / "password"
    open_file.write_text(SECRET)
    open_file.chmod(0o644)
    found = problems(
        api_port="0", mqtt_port="1883 x", broker_kind="carrier-pigeon", zone="CST", gateway="a/b", resend_after="-1", mqtt_windwo="5",
        database_url="", mqtt_password=SECRET, mqtt_password_file=str(open_file), log_level="loud", mqtt_host=" ",
    )  # fmt: skip
    named = {problem.split(":")[0].removeprefix("YIZHAN_") for problem in found}
    assert named == {
        "API_PORT", "MQTT_PORT", "BROKER_KIND", "ZONE", "GATEWAY", "RESEND_AFTER", "MQTT_WINDWO", "DATABASE_URL", "MQTT_PASSWORD_FILE",
        "LOG_LEVEL", "MQTT_HOST",
    }  # fmt: skip
    assert SECRET not in "\n".join(found)


def test_a_secret_can_come_from_a_closed_file_and_never_shows(tmp_path: Path) -> None:
    closed = tmp_path / "password"
    closed.write_text(SECRET + "\n")
    closed.chmod(0o600)
    settings = load({"YIZHAN_MQTT_PASSWORD_FILE": str(closed)})
    assert settings.mqtt_password is not None
    assert settings.mqtt_password.get_secret_value() == SECRET
    assert SECRET not in repr(settings) + str(settings)


def test_a_missing_secret_file_is_a_problem() -> None:
    assert problems(mqtt_password_file="/nowhere/at/all")
