# The two commands of the README: `make run` and `make test`. `make help` lists the rest.
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: help install run lint types test test-ops fast generate docs bench chaos chaos-report soak lock clean
help:            ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16
install:         ## the virtual environment, anvil and solc
	@.ci/install $(VENV) --dev
run: install     ## index a live local chain end to end and compare every row with what was emitted (RUN=--keep)
	@$(BIN)/python -m tests.demo $(RUN)
lint: install    ## ruff, import contracts, spelling, and whether the generated files are up to date
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@out=$$($(BIN)/lint-imports --no-cache) || { echo "$$out"; exit 1; }
	@$(BIN)/codespell
	@$(BIN)/python -m docs.generate --check
types: install   ## mypy, strict
	@$(BIN)/mypy --no-error-summary
test: lint types ## the whole suite but for test-ops
	@$(BIN)/pytest -n 2 --dist loadfile
test-ops: install ## alert rules, status page, TLS, backup: installs Debian's packages, as root
	@.ci/ops-packages
	@$(BIN)/pytest -m ops tests/ops
fast: install    ## the tests that need neither PostgreSQL nor a node
	@$(BIN)/pytest tests/unit
generate: install ## every file that is made from the program: reference pages, table catalog, schema.prisma, dashboard
	@$(BIN)/python -m docs.generate
docs: install    ## the documentation site, in docs/_build/html; a broken link is an error
	@$(BIN)/sphinx-build -W --keep-going -n --quiet -b html docs docs/_build/html
bench: install   ## backfill against its floors and a naive web3.py loop, 20 minutes (BENCH="--quick --logs 100000" two)
	@$(BIN)/python -m benchmarks.backfill --logs 100000,1000000 $(BENCH)
chaos: install   ## 10,000 random steps, 200 kills, 40 faults, 200 lies (CHAOS="--seed 7 --part 3/12": of 100,000 steps)
	@$(BIN)/python -m tests.chaos --out chaos/ $(CHAOS)
chaos-report: install ## the parts of one campaign in chaos/, added up (CHAOS_REPORT="--partial FILE FOLDER")
	@$(BIN)/python -m tests.chaos.report $(CHAOS_REPORT)
soak: install    ## the daemon for ten minutes: flat memory, file descriptors and lag (SOAK="--minutes 60 --seed 7")
	@$(BIN)/python -m tests.chaos.soak --out soak.json $(SOAK)
lock:            ## rewrite the lock files (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -o requirements.lock
	uv pip compile pyproject.toml --extra dask --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -o requirements-dev.lock
clean:           ## forget the virtual environment
	rm -rf $(VENV) node_modules tests/support/prisma/node_modules
