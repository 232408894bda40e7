"""Configuration servers: between a store, which few should reach, and the servers that follow it.

A configuration server is a hotfd server itself: it is replaced under its subscribers as any other. Each serves some
modules and says so in the store; any of them may die, since subscribers hold two.
"""
