"""The central service: validates, queues, routes, leases, records. Run it with `python -m admission`."""
