"""The results folder and its views: records of runs, the environment they were made in, MLflow."""
