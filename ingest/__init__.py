"""Broker to tables: admit, sources, the worker's single transaction, quarantine, attribution."""
