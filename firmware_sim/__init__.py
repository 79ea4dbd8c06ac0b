"""Devices that behave and misbehave like real ones: virtual Bluetooth devices with real GATT services."""
