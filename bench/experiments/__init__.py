"""What is carried out: runs, evaluations, imports and exports of scores."""
