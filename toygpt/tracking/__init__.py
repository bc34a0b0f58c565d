"""What MLflow and W&B show.

The values come from training/loop.py (curves) and the stages (parameters, results).
"""
