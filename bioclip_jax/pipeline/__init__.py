"""From photos and tables to device-ready batches: records, shards, readers, the loader, the synthetic tree."""
