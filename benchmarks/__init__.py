"""One question per script; `python -m benchmarks` asks all of them."""
