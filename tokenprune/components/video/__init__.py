"""Parts for videos: they know which frame a token belongs to, and where in it."""
