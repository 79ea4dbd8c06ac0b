"""Radio to broker: scan, connect, subscribe, translate, spool, publish until the backend's receipt comes."""
