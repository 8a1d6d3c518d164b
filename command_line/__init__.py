"""The command `warmlane`: starts everything on one machine, and talks to admission as a client."""
