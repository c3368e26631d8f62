"""Names of organisms and how a text tower reads them: taxa, name cleaning, captions, prompt templates, tokens.

Nothing here imports JAX, and nothing is loaded before it is used: import the module you need.
"""
