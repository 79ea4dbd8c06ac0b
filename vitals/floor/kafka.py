"""How a process of ours reaches Kafka: addresses, TLS and SASL from the settings, for aiokafka's clients."""

from __future__ import annotations

from typing import Any

from aiokafka.helpers import create_ssl_context

from vitals.errors import ConfigError
from vitals.settings import Settings

REQUEST_TIMEOUT = 10_000  # ms


def options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that producer, consumer and admin client share; raises ConfigError without an address."""
    if settings.kafka_servers is None:
        raise ConfigError(["YIZHAN_KAFKA_SERVERS: needed by this process and not set"])
    found: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_servers.split(","),
        "client_id": f"yizhan-{settings.mqtt_user or 'worker'}",
        "request_timeout_ms": REQUEST_TIMEOUT,
    }
    if settings.kafka_ca is not None:
        own = (str(settings.kafka_certificate), str(settings.kafka_key)) if settings.kafka_certificate is not None else (None, None)
        found["ssl_context"] = create_ssl_context(cafile=str(settings.kafka_ca), certfile=own[0], keyfile=own[1])
    if settings.kafka_user is not None:
        password = settings.kafka_password
        found |= {
            "sasl_mechanism": settings.kafka_sasl,
            "sasl_plain_username": settings.kafka_user,
            "sasl_plain_password": password.get_secret_value() if password is not None else "",
        }
    way = ("SASL_" if settings.kafka_user is not None else "") + ("SSL" if settings.kafka_ca is not None else "PLAINTEXT")
    return found | {"security_protocol": way}
