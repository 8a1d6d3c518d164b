"""What every process shares: clock, settings, errors, rpc, object store, rules of a request."""
