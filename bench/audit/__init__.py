"""What makes a result doubtful: checks of prepared data and of finished runs, each with its evidence and what to do."""
