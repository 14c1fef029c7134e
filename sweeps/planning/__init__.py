"""What a sweep would run, before anything runs."""
