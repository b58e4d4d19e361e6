"""A user's own logs: a folder of CSV or Parquet files."""
