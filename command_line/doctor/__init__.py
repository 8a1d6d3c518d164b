"""`warmlane doctor`: looks at a machine and a stack, and says what is wrong and what to do."""
