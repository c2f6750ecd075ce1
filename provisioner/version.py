"""The one place that states the version: the distribution, `provisioner version` and the agent image's tag take it from here."""

__version__ = "0.1.0"
