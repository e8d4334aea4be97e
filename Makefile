# Each target sets up what it needs; run as root or not.

.DEFAULT_GOAL := help
.PHONY: help venv docker demo lab test test-unit test-frameworks lint bench clean

BIN := .venv/bin

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: ## make .venv with the package and its lab extension
	@scripts/setup-venv lab

docker: ## install and start the Docker engine where it is missing
	@scripts/ensure-docker

demo: venv ## run the quickstart notebook with its kernel in a container
	@scripts/ensure-docker || true
	@scripts/in-docker-group $(BIN)/python -I -m jupyter_dlenv.demo --folder build

lab: venv ## open JupyterLab on the quickstart
	@scripts/ensure-docker || true
	@scripts/in-docker-group $(BIN)/python -I -m jupyter_dlenv.demo --prepare
	@scripts/in-docker-group $(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) examples/quickstart.ipynb

test: ## set up all that the tests need and run every check
	@scripts/ci

test-unit: ## run the tests that need neither Docker, nor a server, nor a browser
	@scripts/setup-venv test
	@scripts/apt-install gcc libc6-dev
	@$(BIN)/python -m pytest -m 'not docker and not server and not browser and not gpu and not slow and not frameworks'

test-frameworks: ## train by every framework for real, in containers; downloads about a gigabyte
	@scripts/setup-venv test
	@scripts/ensure-docker
	@scripts/apt-install debootstrap fakeroot
	@scripts/in-docker-group $(BIN)/jupyter-dlenv images bootstrap --install
	@scripts/test-frameworks

lint: ## check style and types
	@scripts/setup-venv test
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@cd labextension && PATH="$$PWD/../$(BIN):$$PATH" && jlpm install --immutable && jlpm lint:check

bench: ## measure, print, and write benchmarks/results/*.json
	@scripts/setup-venv test
	@scripts/ensure-docker
	@scripts/apt-install gcc libc6-dev
	@scripts/in-docker-group $(BIN)/jupyter-dlenv images bootstrap --install
	@scripts/in-docker-group $(BIN)/python -m benchmarks

clean: ## remove what the other targets made in this folder
	rm -rf .venv build dist jupyter_dlenv/labextension labextension/lib labextension/node_modules \
	    labextension/tsconfig.tsbuildinfo labextension/coverage .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
