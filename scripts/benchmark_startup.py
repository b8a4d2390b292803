"""Measures what `nnunet_cpr.pth` adds to the start of any Python: the import of `nnunet_cpr.nnunet.startup`.

Each measurement is a new interpreter. Prints median and range in milliseconds, and what `python -c pass` takes.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = """
import os, sys, time
sys.path.append(sys.argv[1])
line = open(os.path.join(sys.argv[1], "nnunet_cpr.pth")).read()
start = time.perf_counter()
exec(line)
print(time.perf_counter() - start)
assert "nnunet_cpr.nnunet.startup" in sys.modules
"""


def main() -> None:
    """Start interpreters in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=100, help="interpreters to start (default: 100)")
    starts = parser.parse_args().starts
    hook, whole = [], []
    for _ in range(starts + 1):
        command = [sys.executable, "-I", "-S", "-c", CODE, str(ROOT)]
        hook.append(1000 * float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
        whole.append(1000 * (time.perf_counter() - begun))
    for name, times in (("nnunet_cpr.pth", hook[1:]), ("python -I -c pass", whole[1:])):  # the first start compiles
        print(f"{name:20} {statistics.median(times):7.2f} ms ({min(times):.2f} to {max(times):.2f}, {starts} starts)")


if __name__ == "__main__":
    main()
