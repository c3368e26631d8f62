"""Reading published benchmarks: their layouts, annotations and names."""
