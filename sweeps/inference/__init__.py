"""What can be said of measurements over seeds, and how sure it is."""
