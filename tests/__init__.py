"""Tests and benches. A package of its own, since one of the development packages installs another called `tests`."""
