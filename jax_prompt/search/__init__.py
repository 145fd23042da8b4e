"""The search over hyperparameters: many trainings, one after the other or side by side."""
