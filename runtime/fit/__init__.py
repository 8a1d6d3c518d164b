"""Whether a request fits a GPU, and with which placement of the weights: pure functions of numbers. Nothing but the standard library."""
