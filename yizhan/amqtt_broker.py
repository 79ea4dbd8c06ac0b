"""The pure-Python broker for machines without mosquitto: amqtt, loopback only, with its open doors closed.

Mended by subclassing (amqtt 0.12.1, each with a test): authentication and the will's topic are checked before any
session is touched; the client id is the credential's name; a subscription outside one's rights is refused and
a message outside them never delivered; retained messages go to real subscribers only. What cannot be mended here
the gateway covers: un-acknowledged messages never come back from this broker, so it sends again what has no receipt.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

import amqtt.broker
from amqtt.broker import Broker
from amqtt.contexts import Action
from amqtt.errors import MQTTError
from amqtt.mqtt.connack import NOT_AUTHORIZED, ConnackPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import Session
from paho.mqtt.client import topic_matches_sub

from vitals import broker_password
from vitals.settings import Settings
from yizhan.broker import Credential


class CheckedHandler(BrokerProtocolHandler):  # type: ignore[misc]
    """Refuses a connection before its client id is looked up, so that nobody without a credential touches a session."""

    credentials: ClassVar[dict[str, Credential]] = {}

    @classmethod
    async def init_from_connect(cls, reader: Any, writer: Any, *arguments: Any, **options: Any) -> tuple[BrokerProtocolHandler, Session]:
        handler, session = await super().init_from_connect(reader, writer, *arguments, **options)
        known = cls.credentials.get(session.username or "")
        allowed = known is not None and await asyncio.to_thread(broker_password.matches, session.password or "", known.password_hash)
        if known is None or not allowed or (session.will_flag and session.will_topic not in known.publish):
            await ConnackPacket.build(0, NOT_AUTHORIZED).to_stream(writer)
            await writer.close()
            raise MQTTError("refused")
        session.client_id = session.username
        return handler, session


amqtt.broker.BrokerProtocolHandler = CheckedHandler


class ClosedBroker(Broker):  # type: ignore[misc]
    """amqtt with rights: deny by default, for publishing, subscribing and receiving."""

    async def _authenticate(self, session: Session, _listener: Any) -> bool:
        return True  # CheckedHandler already did, before this session existed

    async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
        known = CheckedHandler.credentials.get(session.username or "")
        if known is None:
            return False
        if action is Action.SUBSCRIBE:
            return topic in known.subscribe
        allowed = known.publish if action is Action.PUBLISH else known.subscribe
        return any(topic_matches_sub(pattern, topic) for pattern in allowed)

    async def _publish_retained_messages_for_subscription(self, subscription: tuple[str, int], session: Session) -> None:
        subscribers = self._subscriptions.get(subscription[0], [])
        if any(subscriber.client_id == session.client_id for subscriber, _ in subscribers):
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def end_session(self, client_id: str) -> None:
        """Throw a client out and forget everything kept for it; its will dies with its right."""
        session, handler = self._sessions.get(client_id, (None, None))
        if session is None:
            return
        session.will_flag = False
        if session.transitions.is_connected():
            writer = handler.writer
            await handler.handle_connection_closed()
            if writer is not None:
                await writer.close()
        await self._delete_session(client_id)


class Amqtt:
    """`yizhan.broker.Broker` over amqtt, in this process."""

    def __init__(self, settings: Settings) -> None:
        logging.getLogger("amqtt").setLevel(logging.CRITICAL)  # it reports every lost connection as an error with a trace
        logging.getLogger("transitions").setLevel(logging.ERROR)
        listener = {"type": "tcp", "bind": f"{settings.broker_bind}:{settings.mqtt_port}", "max_connections": 1000}
        self._broker = ClosedBroker({"listeners": {"default": listener}, "plugins": {}})

    async def start(self, credentials: dict[str, Credential]) -> None:
        CheckedHandler.credentials = dict(credentials)
        await self._broker.start()

    async def update(self, credentials: dict[str, Credential]) -> None:
        before, CheckedHandler.credentials = CheckedHandler.credentials, dict(credentials)
        for user, known in before.items():
            if credentials.get(user) != known:
                await self._broker.end_session(user)

    async def wait(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        await self._broker.shutdown()
