"""Plumbing that several rooms need: MQTT link, database pool and migrations, process loop, metrics."""
