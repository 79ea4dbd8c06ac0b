"""Settings of every process: environment variables `YIZHAN_…`, checked all at once, secrets never printed.

One flat table, because a person who runs this edits one file of variables. A variable with our prefix that no
field knows is an error (a misspelt setting is a setting that does nothing). Every secret may instead be given
as a file with the suffix `_FILE`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from vitals.errors import ConfigError
from vitals.wire import valid_name

PREFIX = "YIZHAN_"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Settings(BaseModel):
    """Every setting with its default; the defaults are what `make up` uses on one machine."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    data_dir: Path = Path(".yizhan")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    shadow_packs: Path | None = Field(
        None, description="folder of rule packs that are evaluated and counted beside those in force, and page nobody"
    )
    zone: str = Field("Asia/Shanghai", description="IANA zone of residents' days and of device clocks")

    database_url: SecretStr | None = Field(None, description="postgresql://… of worker, broker keeper and API")
    api_database_url: SecretStr | None = Field(None, description="postgresql://… of the API: the role yizhan_api, behind the wall")
    database_pool: int = Field(8, ge=1, le=200)

    field_key: SecretStr | None = Field(None, description="seals what names a person, and contacts; at least 24 characters, kept for ever")

    mqtt_host: str = "127.0.0.1"
    mqtt_port: int = Field(1883, ge=1, le=65535)
    mqtt_user: str | None = None
    mqtt_password: SecretStr | None = None
    mqtt_ca: Path | None = Field(None, description="certificate authority; its presence turns TLS on")
    mqtt_window: int = Field(2000, ge=1, le=65535, description="messages taken from the broker and not yet acknowledged")
    backend_users: str = Field("", description="further names of backend processes at the broker (bridges), separated by commas")
    broker_kind: Literal["auto", "mosquitto", "amqtt"] = "auto"
    kafka_servers: str | None = Field(None, description="host:port,…; its presence makes the worker read from Kafka")
    kafka_ca: Path | None = Field(None, description="certificate authority; its presence turns TLS on")
    kafka_certificate: Path | None = Field(None, description="our own certificate, where Kafka asks its clients for one")
    kafka_key: Path | None = None
    kafka_sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_user: str | None = None
    kafka_password: SecretStr | None = None
    kafka_partitions: int = Field(8, ge=1, le=1000, description="of the topic, when a bridge makes it")
    kafka_replicas: int = Field(1, ge=1, le=9)
    kafka_retention_hours: int = Field(168, ge=1)
    broker_bind: str = "127.0.0.1"
    broker_certificate: Path | None = None
    broker_key: Path | None = None

    api_host: str = "127.0.0.1"
    api_port: int = Field(8080, ge=1, le=65535)
    api_certificate: Path | None = None
    api_key: Path | None = None
    oidc_issuer: str | None = Field(None, description="https://… of an OpenID Connect issuer; its presence opens its logins")
    oidc_client: str = "yizhan"
    oidc_secret: SecretStr | None = Field(None, description="of a confidential client")
    oidc_claim: str = Field("preferred_username", description="which of the issuer's words is the name of an account here")
    api_address: str | None = Field(None, description="https://… as browsers know us; where the issuer sends them back to")
    api_rate: int = Field(50, ge=1, description="requests a second of one account, for each API process")
    api_tries: int = Field(30, ge=1, description="a minute: logins and codes tried from one address")
    api_body_limit: int = Field(64 * 1024, ge=1024, le=16 * 1024 * 1024)

    site: str = "station-1"
    gateway: str = "gateway-1"
    spool: Path = Path(".yizhan/spool.db")
    spool_limit: int = Field(1 << 30, ge=1 << 20, description="bytes of records the spool may hold before it sacrifices the least worth")
    devices: Path = Field(Path(".yizhan/devices.json"), description="the devices this gateway may connect to")
    radio: Literal["bluez", "in-process"] = "bluez"
    resend_after: float = Field(5.0, gt=0, le=3600, description="seconds without a receipt before a message is sent again")

    worker_name: str | None = Field(None, description="a worker's own name: after a restart it gets its partitions back at once")
    batch_limit: int = Field(2000, ge=1, le=20000)
    metrics_port: int = Field(0, ge=0, le=65535, description="0 = no listener of its own")

    @field_validator("site", "gateway")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not valid_name(value):
            raise ValueError("letters, digits, - and _ only, at most 64")
        return value

    @field_validator("mqtt_user", "mqtt_host", "api_host", "broker_bind")
    @classmethod
    def _not_blank(cls, value: str | None) -> str | None:
        if value is not None and (not value or value != value.strip()):
            raise ValueError("empty or padded with blanks")
        return value

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("not an IANA zone such as Asia/Shanghai") from None
        return value

    def database(self) -> str:
        """The connection string; raises ConfigError when there is none."""
        if self.database_url is None:
            raise ConfigError(["YIZHAN_DATABASE_URL: needed by this process and not set"])
        return self.database_url.get_secret_value()

    def api_database(self) -> str:
        """What the API connects with: its own role, or failing that the application's."""
        return self.api_database_url.get_secret_value() if self.api_database_url is not None else self.database()

    def sealing(self) -> str:
        """The secret that fields are sealed under; raises ConfigError when there is none."""
        if self.field_key is None:
            raise ConfigError(["YIZHAN_FIELD_KEY: needed by this process and not set"])
        return self.field_key.get_secret_value()


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings; raises ConfigError with every problem, none of which prints a value."""
    settings, problems = examine(environment)
    if problems:
        raise ConfigError(problems)
    return settings


def examine(environment: Mapping[str, str] | None = None) -> tuple[Settings, list[str]]:
    """Settings from what is valid, and every problem of the rest: for `yizhan check`, which looks on."""
    values, problems = _collect(dict(os.environ if environment is None else environment))
    while True:
        try:
            return Settings.model_validate(values), problems
        except ValidationError as error:
            wrong = {str(e["loc"][0]): e["msg"].removeprefix("Value error, ") for e in error.errors()}
            problems += [f"{PREFIX}{name.upper()}: {message}" for name, message in wrong.items()]
            values = {name: value for name, value in values.items() if name not in wrong}


def _collect(environment: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    problems: list[str] = []
    secrets = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name.endswith("_file") and name.removesuffix("_file") in secrets:
            target = name.removesuffix("_file")
            if PREFIX + target.upper() in environment:
                problems.append(f"{variable}: set together with {PREFIX}{target.upper()}; which one counts?")
            try:
                path = Path(text)
                if path.stat().st_mode & 0o077:
                    problems.append(f"{variable}: the file can be read by others; chmod 600")
                values[target] = path.read_text().strip()
            except OSError as error:
                problems.append(f"{variable}: {error.strerror}")
        elif name not in Settings.model_fields:
            problems.append(f"{variable}: no such setting")
        elif text == "":
            problems.append(f"{variable}: set but empty")
        else:
            values[name] = text
    return values, problems
