"""The lane that keeps AniSora warm: its pipeline, its conditioning, its settings."""
