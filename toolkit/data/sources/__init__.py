"Data sets that are no folder of photos yet: a zip, Parquet files, a folder of `datasets`, the Hugging Face hub."
