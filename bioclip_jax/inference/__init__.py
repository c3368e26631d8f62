"""Using a trained model: load it from wherever it lies, turn photos and texts into features."""
