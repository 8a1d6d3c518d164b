"""The servers behind this one: that of the image models and that of the accounts, each called with a key of the bridge's own."""
