"""Starts runs elsewhere: renders jobs for schedulers and machines, submits them, and rehearses them on this machine.

A `Job` is one image, one command and its environment; what starts it differs by target. Rendering touches no network
and no credentials; submitting is the business of the engine's own command line tool.
"""
