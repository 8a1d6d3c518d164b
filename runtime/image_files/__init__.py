"""Reads PNG, JPEG and WebP files that strangers made: whether they hold a whole picture, in bounded time and memory."""
