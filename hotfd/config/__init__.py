"""Configuration that changes while sessions run: releases, where they come from, and how a server comes to have them.

A **release** is one immutable version of a module's values. It is made by ``hotfd config publish`` from what somebody
has committed, kept in a **store**, and brought to each server by a **source**. A server **stages** it: checks it and
builds the typed value that handlers read. The next session begins with it; those that run keep their own.

This layer is a leaf: it knows nothing of connections and handoffs. The server layer asks it for the configuration of
a session that begins (:mod:`hotfd.config.slots`), and nothing else.
"""
