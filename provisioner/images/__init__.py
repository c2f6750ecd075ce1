"""The images of a cluster: OCI archives made from Debian packages and our own files, cached by content. Nothing is pulled."""

from __future__ import annotations

from provisioner.images.build import Image, Images, ensure_images, ensure_toolbox, ensure_tracer

__all__ = ["Image", "Images", "ensure_images", "ensure_toolbox", "ensure_tracer"]
