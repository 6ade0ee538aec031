"""The tests: a package, so that its own ``statistics`` does not stand in for Python's."""
