"""What the operators' console is told: one look at admission a second for all who watch, its events, and what of it is a problem."""
