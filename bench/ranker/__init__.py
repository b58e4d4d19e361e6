"""What a model is to the harness: the contract, the registry and the trainer."""
