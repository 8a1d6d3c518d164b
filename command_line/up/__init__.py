"""`warmlane up`: the supervisor of one machine's processes."""
