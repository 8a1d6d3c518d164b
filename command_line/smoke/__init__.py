"""`warmlane smoke URL`: the live check of a deployment, over HTTP only."""
