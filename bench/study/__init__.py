"""What a user asks for: run, evaluate, table; and where the results go."""
