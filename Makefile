# The two that a newcomer needs on a fresh machine: `make demo`, `make test`. Each sets up .venv by itself.
.PHONY: setup demo test check bench bench-optimize promises soak frozen reference protobuf

setup:
	@scripts/setup

# The whole life of a model on real data; ends with a running server.
demo: setup
	@.venv/bin/windlass demo

# Everything that CI asks for: format, lint, types, contracts, then all tests but the soak.
test:
	@scripts/setup test
	@scripts/test

# Format, lint, types, contracts: the quick half of `make test`.
check: setup
	@scripts/check

# Speed against peers on this machine; writes benchmarks/RESULTS.md.
bench:
	@scripts/setup bench
	@benchmarks/run

# What `windlass optimize` makes of a dozen shapes of models, in some 25 minutes; the last part of benchmarks/RESULTS.md.
bench-optimize:
	@scripts/setup bench
	@.venv/bin/python benchmarks/optimize.py

# Each promise, the tests that prove it, and what they said last.
promises: setup
	@.venv/bin/python scripts/promises.py

# Drills of minutes to hours.
soak:
	@scripts/setup test
	@.venv/bin/python -m pytest -m soak --timeout=28800

# Rewrite the frozen lists of public names, options, routes and codes: a decision, to be read in the diff.
frozen: setup
	@.venv/bin/python scripts/frozen.py

# Rewrite docs/reference/ from the code.
reference: setup
	@.venv/bin/python scripts/reference.py

# Compile the .proto files anew.
protobuf: setup
	@.venv/bin/python scripts/protobuf.py
