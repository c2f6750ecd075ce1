"""What `policy explain` and `policy matrix` are told and show. Pure: objects in, a document for the compiler out, its answer as text.

The tool never judges a packet itself: that is the agent's compiler, which is asked in a process of its own.
"""
