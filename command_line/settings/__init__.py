"""`warmlane settings`: the frontend's settings file, shown and compared with the server's rules."""
