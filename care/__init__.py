"""Alerts to people: residents, contracts, routing, the queue, referral."""
