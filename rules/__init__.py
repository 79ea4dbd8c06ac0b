"""Readings to alerts, vectorised and pure: packs are data, the engine decides, SQL stands around it."""
