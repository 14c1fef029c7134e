"""The four exchangeable parts of a memory that learns: structure, objective, retention, optimizer (MIRAS)."""
