"""Real text that comes with packages, and text of a user's own: documents, and their split into train, val and test."""
