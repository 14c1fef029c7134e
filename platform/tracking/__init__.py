"""What happened, kept: metrics on disk, then in MLflow."""
