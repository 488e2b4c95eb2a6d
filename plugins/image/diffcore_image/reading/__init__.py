"""Reading many pictures: into memory or shards, from folders, WebDataset tars and Parquet files."""
