"""Pages, pictures and kept results."""
