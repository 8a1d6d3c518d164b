"""The lane that renders with either model, one resident at a time, when no dedicated lane can."""
