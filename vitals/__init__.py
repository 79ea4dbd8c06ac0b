"""The shared words: metrics, measurements, alerts, GATT, the wire. Pure; only ``vitals.floor`` imports a driver."""
