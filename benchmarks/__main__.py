"""`python -m benchmarks [NAME ...]`: runs benchmarks on the device that JAX sees."""

import argparse
import signal
import sys
from pathlib import Path

from .runner import main, scripts

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Runs benchmarks on the device that JAX sees, all or those named.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="see --list")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes, to see that they run"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIRECTORY",
        help="where to write; a new folder in benchmarks/results by default",
    )
    parser.add_argument(
        "--list", action="store_true", help="the names and questions, and nothing else"
    )
    given = parser.parse_args()
    if given.list:
        for name, path in scripts().items():
            question = path.read_text(encoding="utf-8").split("\n")[0].strip('"')
            print(f"{name:18} {question}")
        sys.exit(0)
    # A request to end is an interrupt: the script ends too, and records are kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(given.names, smoke=given.smoke, output=given.output))
