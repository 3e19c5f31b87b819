# `make check` runs everything that each change must pass; hooks and CI call the same targets.
# PYTHON is the interpreter of a virtual environment with the project and its `dev` extra.
PYTHON ?= python
RUN = $(PYTHON) -m

.PHONY: check format lint types contracts test unit integration slow faults faults-short e2e upstream pillow answers fuzz docs site examples screenshot lock bench bench-check bench-scale bench-growth

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

# Kill processes, break connections and fill disks; takes over an hour, and writes the tables of docs/faults.md.
# Needs nginx, redis-server, and root for its small disks.
faults:
	FAULTS=long FAULTS_KEEP=yes $(RUN) pytest -n 0 tests/faults
	$(RUN) docs.produce
	FAULTS=long $(RUN) pytest -n 0 tests/integration/test_protocol.py

# The same with fewer repetitions and images, in about ten minutes. These tests mostly wait, so two run at a time.
faults-short:
	$(RUN) pytest -n 2 tests/faults

# Whole runs with killed or slow processes, and broken versions that the protocol's model must detect; nine minutes.
slow:
	$(RUN) pytest tests/integration -m slow

# Needs a Docker Engine with Compose v2; not part of `make check`.
e2e:
	$(RUN) pytest -n 0 tests/e2e

# kombu's and Celery's own tests with our transport and backend; three minutes. Needs redis-server and the package index.
upstream:
	$(RUN) tests.upstream

# Fetch Pillow's own test images with a local fleet; a minute. Needs redis-server, nginx and the package index.
pillow:
	$(RUN) tests.pillow

# Fetch the responses of docs/answers.md with imagefleet, curl and requests, and update the page; a minute. Needs curl.
answers:
	$(RUN) tests.answers

# Search for unexpected inputs for FUZZ_SECONDS (default: 600); needs Linux on x86_64.
fuzz:
	$(RUN) tests.fuzz --seconds $(or $(FUZZ_SECONDS),600)

# Pins for users (constraints.txt), and pins with hashes for containers and CI; neither names a package index.
COMPILE = $(RUN) piptools compile --quiet --strip-extras --allow-unsafe --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options --resolver=backtracking

lock:
	$(COMPILE) --all-extras --output-file constraints.txt pyproject.toml
	$(COMPILE) --generate-hashes --constraint constraints.txt --extra objects --output-file requirements.lock pyproject.toml
	$(COMPILE) --generate-hashes --constraint constraints.txt --all-extras --output-file requirements-dev.lock pyproject.toml

# img2dataset needs other versions than imagefleet, so it gets an environment of its own. Set IMG2DATASET to use another.
IMG2DATASET ?= $(CURDIR)/.bench/bin/img2dataset
export IMG2DATASET

$(CURDIR)/.bench/bin/img2dataset: benchmarks/peers.txt
	$(PYTHON) -m venv .bench
	.bench/bin/pip install -q -r benchmarks/peers.txt

# Compare imagefleet and its peers on the same images, in turn, then write RESULTS.md, the plots and the README; over an
# hour.
# Needs nginx, openssl, redis-server, aria2 and curl.
bench: $(IMG2DATASET)
	$(RUN) benchmarks
	$(RUN) docs.produce

# Fail if imagefleet's ratio to threads or img2dataset fell by more than a tenth of its stored value; minutes.
bench-check:
	$(RUN) benchmarks.check

# Measure an image's cost in Redis, and how many images per second one Redis carries; five minutes. This target and the
# next need nginx.
bench-scale:
	$(RUN) benchmarks.scale

# Measure memory and cost by the length of the list; five minutes. `SIZES=1000000` takes twenty, and merges its results.
bench-growth:
	$(RUN) benchmarks.growth --images $(or $(SIZES),1000 10000 100000)

# Write the produced parts of README.md and docs/: help texts, settings, tables.
docs:
	$(RUN) docs.produce

# Build the documentation as a site in build/site/html, and check its links; seconds.
site:
	$(RUN) docs.build_site

# Run the README's examples, and store their output.
examples:
	$(RUN) docs.examples

# Take the screenshots of Flower, of the gallery and of a report in the docs; needs Debian's chromium.
screenshot:
	$(RUN) docs.screenshot
	$(RUN) docs.gallery_screenshot
	$(RUN) docs.report_screenshots
