"""Meshes of devices, and which dimension of which array lies along which of their axes."""
