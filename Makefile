PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: demo test setup lint clean

demo: .venv/ready  ## train the default experiment on embedded real data and draw its figures
	$(RUN) -m experiments train --workdir=runs/digits
	$(RUN) -m experiments demo --workdir=runs/digits

test: .venv/ready  ## run every test
	$(RUN) -m pytest -q tests

lint: .venv/ready  ## ruff and the type checker
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy dlx

setup: .venv/ready  ## create .venv from constraints.txt

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dlx needs Python >= 3.11; say make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

clean:
	rm -rf .venv build *.egg-info
