"""Kubeflow as the launchers use it: manifests and component files, as data."""
