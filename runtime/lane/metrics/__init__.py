"""A lane's metrics: its attempts as they end, and its state when somebody asks."""
