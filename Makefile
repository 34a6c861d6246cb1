# Everything starts from a bare Python 3.10 to 3.12: the first target that needs the environment makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Threads that spin while they wait for each other are far slower than one on shared cores.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0

.PHONY: demo test lint types lock prior text-prior clean

demo: $(STAMP)
	$(BIN)/csd-nerf demo --overwrite

test: $(STAMP) lint types
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/pyright

# The bundled prior, from nothing; goes on from where it was interrupted.
prior: $(STAMP)
	$(BIN)/python -m training.tiny_prior

# The bundled text-to-image prior, likewise.
text-prior: $(STAMP)
	$(BIN)/python -m training.tiny_text_prior

lock: $(STAMP)
	$(VENV)/uv/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 \
		--no-emit-index-url --no-header --no-annotate --upgrade --output-file requirements.lock

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PYTHON) -m venv $(VENV)/uv
	$(VENV)/uv/bin/pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/uv/bin/uv pip sync --quiet requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/uv/bin/uv pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV)
