"""The protocols of published benchmarks, as functions of features and as tasks."""
