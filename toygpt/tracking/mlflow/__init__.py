"""A run in MLflow, its model, and MLflow's registry of models."""
