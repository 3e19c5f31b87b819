# The whole gate is `make check`; hooks and CI call the same targets.
# PYTHON is the interpreter of the virtual environment that has the project with its `dev` extra.
PYTHON ?= python
RUN = $(PYTHON) -m

.PHONY: check format lint types contracts test unit integration slow faults faults-short e2e upstream pillow answers fuzz docs examples screenshot lock bench bench-check bench-scale bench-growth

check: format lint types contracts test

format:
	$(RUN) ruff format --check .

lint:
	$(RUN) ruff check .
	hadolint Dockerfile

types:
	$(RUN) mypy

contracts:
	lint-imports

test: unit integration

unit:
	$(RUN) pytest tests/unit

integration:
	$(RUN) pytest tests/integration

# Processes that are killed, connections that break, disks that fill; over an hour, and the table in docs/faults.md.
# Needs nginx, redis-server, and root for its small disks.
faults:
	FAULTS=long FAULTS_KEEP=yes $(RUN) pytest -n 0 tests/faults
	$(RUN) docs.produce
	FAULTS=long $(RUN) pytest -n 0 tests/integration/test_protocol.py

# The same with fewer repetitions and images, in eight to ten minutes.
faults-short:
	$(RUN) pytest -n 0 tests/faults

# Whole runs whose processes are killed or wait long, and broken versions that the protocol's model has to find: seven
# minutes.
slow:
	$(RUN) pytest tests/integration -m slow

# Needs a Docker Engine with Compose v2; not part of `make check`.
e2e:
	$(RUN) pytest -n 0 tests/e2e

# kombu's and Celery's own tests over our transport and backend; three minutes. Needs redis-server and the package index.
upstream:
	$(RUN) tests.upstream

# Pillow's own test images, fetched by a local fleet; a minute. Needs redis-server, nginx and the package index.
pillow:
	$(RUN) tests.pillow

# The answers of docs/answers.md, fetched with imagefleet, curl and requests; renews the page. Needs curl; seconds.
answers:
	$(RUN) tests.answers

# Inputs that nobody thought of, for FUZZ_SECONDS; needs Linux on x86_64.
fuzz:
	$(RUN) tests.fuzz --seconds $(or $(FUZZ_SECONDS),600)

# Pins for users (constraints.txt) and pins with hashes for images and CI; neither names a host.
COMPILE = $(RUN) piptools compile --quiet --strip-extras --allow-unsafe --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options --resolver=backtracking

lock:
	$(COMPILE) --all-extras --output-file constraints.txt pyproject.toml
	$(COMPILE) --generate-hashes --constraint constraints.txt --output-file requirements.lock pyproject.toml
	$(COMPILE) --generate-hashes --constraint constraints.txt --all-extras --output-file requirements-dev.lock pyproject.toml

# img2dataset needs other versions than we do, so it has an environment of its own; or name one that is there.
IMG2DATASET ?= $(CURDIR)/.bench/bin/img2dataset
export IMG2DATASET

$(CURDIR)/.bench/bin/img2dataset: benchmarks/peers.txt
	$(PYTHON) -m venv .bench
	.bench/bin/pip install -q -r benchmarks/peers.txt

# Over an hour: peers and imagefleet over the same pictures, in turns, then RESULTS.md, the plots and the README.
# Needs nginx, openssl, redis-server, aria2 and curl.
bench: $(IMG2DATASET)
	$(RUN) benchmarks
	$(RUN) docs.produce

# Minutes: fails where imagefleet fell behind threads or img2dataset by more than a tenth of what is kept.
bench-check:
	$(RUN) benchmarks.check

# What an image costs Redis, and how many a second one carries: five minutes. Needs nginx, as do all that follow.
bench-scale:
	$(RUN) benchmarks.scale

# Memory and cost by the length of the list: five minutes; `SIZES=1000000` takes twenty, and merges what it finds.
bench-growth:
	$(RUN) benchmarks.growth --images $(or $(SIZES),1000 10000 100000)

# The parts of README.md and docs/ that are made, not typed: help texts, settings, tables.
docs:
	$(RUN) docs.produce

# Runs what the README shows, and keeps what it printed.
examples:
	$(RUN) docs.examples

# The picture of Flower in the docs; needs Debian's chromium.
screenshot:
	$(RUN) docs.screenshot
