"""The earlier name of harness/, for programs that import it."""

import sys

import harness

sys.modules[__name__] = harness
