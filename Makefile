# What a contributor runs, and what CI runs. Everything is built in one profile, once.
CARGO ?= cargo
QAFLOW = target/release/qaflow
N ?= 100

.PHONY: help build demo test check crash memory adaptive outage near-duplicates bench ladder test-slurm test-prometheus test-formats \
	test-browser

help:
	@echo "make demo    build, fetch the demo model, run the samples"
	@echo "make test    the test suite"
	@echo "make check   format, lints, dependencies and licences"
	@echo "make crash   the long SIGKILL loop (N=$(N) kills)"
	@echo "make bench   the flow beside a bare client loop, on this machine"
	@echo "make ladder  the ladder of growing batches by simulation, and its report"
	@echo "make memory  peak memory at 10,000 and 100,000 chunks"
	@echo "make adaptive  the adaptive limit against servers with a hidden knee"
	@echo "make test-slurm  jobs on a real Slurm: preempted, requeued, cancelled, killed (SUBSET=1: fewer)"
	@echo "make test-prometheus  a real Prometheus reads a run; every expression of dashboards and rules is evaluated"
	@echo "make near-duplicates  time and memory of the search for near-duplicates in a million pairs"
	@echo "make test-formats  pandas and datasets read every format (installs them below target/)"
	@echo "make test-browser  the pages in a headless Chromium (chromium, chromium-driver)"
	@echo "make outage  a minute without server, a minute of overload"

build:
	$(CARGO) build --release --locked

demo: build
	$(QAFLOW) model pull
	$(QAFLOW) run configs/quickstart.yaml

test:
	$(CARGO) test --release --locked

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --all-targets -- -D warnings
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check bans licenses sources
	@if $(CARGO) deny --locked fetch db 2>/dev/null; then $(CARGO) deny --locked check advisories; \
	else echo "advisories NOT checked: their database cannot be fetched from here"; fi

crash:
	QAFLOW_KILLS=$(N) $(CARGO) test --release --locked --test it -- --ignored --nocapture \
	    crash::sigkill_at_many_random_moments_changes_nothing

memory:
	$(CARGO) test --release --locked --test it -- --ignored --nocapture memory::

adaptive:
	$(CARGO) test --release --locked --test it -- --ignored --nocapture endpoints::the_limit_settles

near-duplicates:
	$(CARGO) test --release --locked --lib -- --ignored --nocapture near_duplicates::

outage:
	$(CARGO) test --release --locked --test it -- --ignored --nocapture endpoints::minutes_of_outage

test-prometheus:
	$(CARGO) test --release --locked --test it -- --ignored --nocapture --test-threads 1 prometheus::
FORMATS_PYTHON = target/formats-venv/bin/python

$(FORMATS_PYTHON):
	python3 -m venv target/formats-venv
	$(FORMATS_PYTHON) -m pip install --quiet pandas pyarrow datasets

test-formats: $(FORMATS_PYTHON)
	QAFLOW_PYTHON=$(CURDIR)/$(FORMATS_PYTHON) $(CARGO) test --release --locked --test it -- --ignored --nocapture \
	    formats::python_reads_every_format

test-browser:
	$(CARGO) test --release --locked --test it -- --ignored --nocapture browser_

bench: build
	$(QAFLOW) bench flow --all

ladder:
	$(CARGO) test --release --locked --test it -- --ignored --nocapture ladder::the_whole_ladder

test-slurm: build
	SUBSET=$(SUBSET) bash tests/slurm/run
