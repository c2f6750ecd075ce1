"""Tracing a cluster: a pod with the tracer on each node concerned, what they all tell as one stream, and nothing left of them afterwards.

`job`, `names` and `text` decide, without talking to anybody; `run` starts, listens and removes.
"""
