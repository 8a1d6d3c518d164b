"""The HTTP contract as a stranger reads it: tables of rows, fields and limits, tried over HTTP against a running bridge."""
