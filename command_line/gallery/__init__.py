"""`warmlane import-gallery`: takes over an existing gallery, a SQLite file with its videos and previews."""
