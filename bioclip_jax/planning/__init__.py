"""Before a run: what the compiler says about the very step that it would take, on devices that are not here."""
