"""Prometheus metrics of every process, in one place so that their names stay one language.

No label ever carries a person, a device or a payload: reasons, kinds and states only.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

measurements_spooled = Counter("yizhan_gateway_measurements_spooled_total", "Measurements made durable in the gateway's spool")
spool_depth = Gauge("yizhan_gateway_spool_depth", "Messages in the spool that have no receipt")
messages_published = Counter("yizhan_gateway_messages_published_total", "Messages published, repeats included")
frames_refused = Counter("yizhan_gateway_frames_refused_total", "Frames that could not be decoded", ["reason"])
frames_not_readings = Counter(
    "yizhan_gateway_frames_not_readings_total", "Frames that are no person's reading (control solution, placeholder …)", ["reason"]
)
sessions = Counter("yizhan_gateway_sessions_total", "Bluetooth sessions by how they ended", ["outcome"])
link_epochs = Counter("yizhan_mqtt_connections_total", "Connections made to the broker")
link_shed = Counter("yizhan_mqtt_shed_total", "Messages left unacknowledged because the window was full")
batch_seconds = Histogram("yizhan_worker_batch_seconds", "One worker transaction, commit included", buckets=_LATENCY)
measurements_stored = Counter("yizhan_worker_measurements_stored_total", "New measurements committed")
duplicates = Counter("yizhan_worker_duplicates_total", "Measurements that were already stored")
quarantined = Counter("yizhan_worker_quarantined_total", "Messages that went to quarantine", ["reason"])
fenced = Counter("yizhan_worker_fenced_total", "Transactions given up because another worker has the partition")
stream_ahead = Gauge("yizhan_worker_stream_ahead", "Records read from Kafka and not yet committed")
relayed = Counter("yizhan_bridge_relayed_total", "Messages that Kafka acknowledged")
quarantine_full = Counter("yizhan_worker_quarantine_full_total", "Times that reading stopped because the quarantine was full")
books_differ = Gauge("yizhan_ingest_books_differ", "Days of gateways on which what was spooled and what is stored differ")
alert_changes = Counter("yizhan_worker_alert_changes_total", "Alert movements", ["family", "state"])
rule_failed = Counter("yizhan_worker_rule_failed_total", "Measurements that a rule could not judge because it raised", ["rule"])
shadow_items = Counter("yizhan_worker_shadow_items_total", "What packs in shadow would have raised", ["rule", "severity"])
shadow_failed = Counter("yizhan_worker_shadow_failed_total", "Transactions in which packs in shadow failed and were left out")
requests = Counter("yizhan_api_requests_total", "HTTP requests", ["method", "status"])
gateway_forks = Counter("yizhan_ingest_gateway_forks_total", "Spools whose disk was copied or set back")
streams = Gauge("yizhan_api_event_streams", "Open event streams")


def serve(port: int) -> None:
    """Serve /metrics of this process on the loopback interface; port 0 serves nothing."""
    if port:
        start_http_server(port, addr="127.0.0.1")
