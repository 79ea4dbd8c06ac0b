"""What people and kiosks touch: HTTP, event streams, the console."""
