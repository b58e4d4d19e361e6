"""Everything below the models: the Log, its splits, the histories and the batches."""
