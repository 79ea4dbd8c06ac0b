"""A Kafka of one node (KRaft, no ZooKeeper) as our own child: for the tests, benchmarks and fault runs of the Kafka lane.

Its jars come through Maven (`tests/install_services.sh`) into the cache; a district runs its own cluster.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import uuid
from pathlib import Path

from vitals.errors import ConfigError

HEAP = "512m"


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "yizhan"


def jars() -> Path | None:
    """The folder of Kafka's jars, if it and Java are there."""
    found = cache() / "kafka" / "libs"
    return found if shutil.which("java") and (cache() / "kafka" / ".complete").exists() else None


def _java(*arguments: str) -> list[str]:
    found = jars()
    if found is None:
        raise ConfigError(["no Kafka here: tests/install_services.sh installs it (Java and Maven needed)"])
    return ["java", f"-Xms{HEAP}", f"-Xmx{HEAP}", "-XX:+UseG1GC", "-cp", f"{found}/*", *arguments]


def prepare(folder: Path, port: int, controller_port: int, more: dict[str, str] | None = None) -> list[str]:
    """Format the storage once; returns the server's command. Every acknowledged record is on disk (flush.messages=1).

    more: server properties that replace or extend ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "server.properties"
    configuration.write_text(
        "\n".join(
            f"{name}={value}"
            for name, value in {
                "process.roles": "broker,controller", "node.id": 1, "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
                "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}", "controller.listener.names": "CONTROLLER",
                "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT", "log.dirs": folder / "data",
                "offsets.topic.replication.factor": 1, "offsets.topic.num.partitions": 1, "transaction.state.log.replication.factor": 1,
                "transaction.state.log.min.isr": 1, "group.initial.rebalance.delay.ms": 0, "auto.create.topics.enable": "false",
                "log.flush.interval.messages": 1, "log.segment.bytes": 64 << 20, "num.network.threads": 2, "num.io.threads": 4,
                "message.max.bytes": 8 << 20, "log.cleaner.enable": "false", "group.min.session.timeout.ms": 1000,
                # one node that is killed must not wait nine seconds for its own former life to expire
                "broker.session.timeout.ms": 1500, "broker.heartbeat.interval.ms": 300,
                **(more or {}),
            }.items()
        )
    )  # fmt: skip
    if not (folder / "data" / "meta.properties").exists():
        identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = _java("kafka.tools.StorageTool", "format", "-t", identity, "-c", str(configuration))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError([f"kafka's storage cannot be formatted: {done.stderr.strip().splitlines()[-1:]}"])
    return ["setpriv", "--pdeathsig", "TERM", *_java("kafka.Kafka", str(configuration))]
