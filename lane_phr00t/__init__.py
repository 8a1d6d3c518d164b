"""The lane that keeps Phr00t warm: its pipeline, its conditioning, its settings."""
