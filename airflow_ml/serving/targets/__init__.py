"""The model servers of a platform as one thing: publish, load, wait, label. Importing it costs nothing.

Four parts, each with its own file: a *shelf* holds versions where the servers find them, a *store* holds the config, a
*writer* changes it under a lease, and *replicas* are asked what became of it. `servers` puts them together, and
`opening` makes them from what a platform declares.
"""
