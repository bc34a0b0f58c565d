"""What MLflow and W&B show."""
