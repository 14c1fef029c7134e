"""The pictures of a report, one message each."""
