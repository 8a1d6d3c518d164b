"""What lanes share: the agent that speaks with admission, the process that runs the pipeline, and everything about GPUs."""
