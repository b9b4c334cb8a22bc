"""A package by name, since one of the SageMaker SDK's dependencies installs another called so."""
