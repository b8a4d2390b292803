"""Its presence puts this folder on the path, so that the tests of all folders find `damaging`."""
