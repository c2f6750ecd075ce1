"""Clusters of Google Kubernetes Engine, through its API."""
