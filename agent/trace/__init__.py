"""The tracer: probes on the kernel's tracepoints, compiled by BCC when they are asked for, on the node where they are needed.

It runs in an image of its own, never in the agent's. What a probe looks like and what its bytes mean is decided here without the kernel
(`formats`, `btf`, `filters`, `packets`, `drops`, `connects`); `probe`, `node` and `session` talk to it.
"""
