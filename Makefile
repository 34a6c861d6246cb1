# Everything starts from a bare Python 3.10 to 3.12: the first target that needs the environment makes it.
PYTHON ?= python3
VENV := .venv
# TORCH=cpu takes torch without CUDA, from the index that uv knows for it.
TORCH ?=
ifneq ($(filter-out cpu,$(TORCH)),)
$(error TORCH must be cpu or nothing, got $(TORCH); leave it out for torch with CUDA)
endif
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV = VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/uv/bin/uv pip
# Threads that spin while they wait for each other are far slower than one on shared cores.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0
# uv leaves it to Python to compile modules, which takes seconds where each process does it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types lock prior text-prior clean

demo: $(STAMP)
	$(BIN)/csd-nerf demo --overwrite

test: $(STAMP) lint types
	$(BIN)/pytest -n logical --maxprocesses 4 --dist worksteal

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
	$(UV) compile pyproject.toml --extra dev --universal --python-version 3.10 \
		--no-emit-index-url --no-header --no-annotate --upgrade --output-file requirements.lock

$(STAMP): requirements.lock pyproject.toml
ifeq ($(TORCH),cpu)
	@echo "Setting up $(VENV) without CUDA: less than 5 GB on Linux. Downloading begins."
else
	@echo "Setting up $(VENV): about 8 GB on Linux, half of it for CUDA. Downloading begins."
	@echo "Without a GPU half of it will do: make demo TORCH=cpu (Ctrl-C stops this one)."
endif
	$(PYTHON) -m venv $(VENV)
	$(PYTHON) -m venv $(VENV)/uv
	$(VENV)/uv/bin/pip install --quiet --disable-pip-version-check uv
ifeq ($(TORCH),cpu)
	@grep -vE '^(nvidia|cuda|triton)[-=]' requirements.lock > $(VENV)/requirements.txt
	@$(UV) sync --quiet --torch-backend cpu $(VENV)/requirements.txt 2> $(VENV)/uv.log || { \
		echo "CPU wheels of torch must be reachable, got an error ($(VENV)/uv.log has it);" \
			"run: make demo, which takes those of the usual index, with CUDA." >&2; exit 1; }
else
	$(UV) sync --quiet requirements.lock
endif
	$(UV) install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV)
