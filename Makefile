# Everything a developer or a newcomer runs. `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
# For the CPU wheels of torch: make TORCH_INDEX=https://download.pytorch.org/whl/cpu demo
TORCH_INDEX ?=
HOST ?= 127.0.0.1
PORT ?= 50051
BIN := .venv/bin
STAMP := .venv/.installed
PROTO_BIN := .venv-protos/bin
PROTO_FILES := $(shell cd protos && find statecell -name '*.proto')
SOURCES := protos export server clients/python docs tests bench release

# A .venv is of use only where it was made, and with the Python that it was made by.
$(shell [ "$$(cat $(STAMP) 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -c 0 2>/dev/null || rm -f $(STAMP))

.PHONY: help venv venv-gpu gpu-check train export serve demo test faults fuzz soak lint format protos protos-check clients wheels release audit outside bench bench-durability image clean

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## Install everything into .venv (other targets do it by themselves)

$(STAMP): requirements-dev.txt protos/pyproject.toml export/pyproject.toml server/pyproject.toml clients/python/pyproject.toml
	@PYTHON="$(PYTHON)" .ci/venv
	@echo "installing statecell, PyTorch, ONNX Runtime and the tools into .venv; this takes minutes the first time"
	$(BIN)/pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements-dev.txt \
	  -e ./protos -e "./clients/python[cli]" -e "./server[cpu,uvloop,valkey,http,otel]" -e ./export
	@echo "$(CURDIR)" > $@

venv-gpu:  ## Install the server with onnxruntime-gpu, without CUDA's libraries, into .venv-gpu: tests see it refuse
	test -x .venv-gpu/bin/python || $(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/pip install --quiet -e ./protos -e ./server "onnxruntime-gpu>=1.31"

train: $(STAMP)  ## Train the example models again from their seeds
	$(BIN)/python -m statecell_examples.charlm.train
	$(BIN)/python -m statecell_examples.forecast.train

export: $(STAMP)  ## Export and verify the example models into models/
	$(BIN)/statecell-export examples --out models

serve: export  ## Serve models/ on HOST:PORT until Ctrl-C
	$(BIN)/statecell-server --models models --host $(HOST) --port $(PORT)

demo: export  ## Export, serve and step the example models, and show what came out
	$(BIN)/python -m statecell_examples.demo --models models --out out

test: $(STAMP)  ## Run the tests
	$(BIN)/pytest

KILLS ?= 200
faults: $(STAMP)  ## Kill, pause, cut and restart replicas and their store for minutes (KILLS=200); needs redis-server
	STATECELL_KILLS=$(KILLS) $(BIN)/pytest tests/faults

SECONDS ?= 600
fuzz: $(STAMP)  ## Fuzz everything that reads strangers' bytes, SECONDS=600 each, from and into .fuzz/; what breaks is in tests/fuzz/found/
	for target in $$(ls tests/fuzz/corpus); do \
	  $(BIN)/python -m tests.fuzz $$target --seconds $(SECONDS) --corpus .fuzz/$$target || exit 1; done

MINUTES ?= 30
soak: $(STAMP)  ## Mixed clients against a server for MINUTES=30, every answer checked; then what grew and what was lost
	$(BIN)/python -m bench.soak --minutes $(MINUTES)

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(SOURCES)

format: $(STAMP)  ## Let ruff format and sort
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# Generated with one fixed release of the compiler: its code runs on protobuf 6 and 7.
$(PROTO_BIN)/.installed: requirements-protos.txt
	test -x $(PROTO_BIN)/python || $(PYTHON) -m venv .venv-protos
	$(PROTO_BIN)/pip install --quiet -r requirements-protos.txt
	touch $@

protos: $(PROTO_BIN)/.installed  ## Generate the Python code of protos/
	$(PROTO_BIN)/python -m grpc_tools.protoc -I protos --python_out=protos --pyi_out=protos --grpc_python_out=protos $(PROTO_FILES)

protos-check: $(PROTO_BIN)/.installed  ## Fail where the checked-in generated code is not what protos/ gives
	@rm -rf .venv-protos/check && mkdir -p .venv-protos/check
	@$(PROTO_BIN)/python -m grpc_tools.protoc -I protos --python_out=.venv-protos/check --pyi_out=.venv-protos/check \
	  --grpc_python_out=.venv-protos/check $(PROTO_FILES)
	@cd .venv-protos/check && for f in $$(find statecell -type f); do \
	  diff -q $$f ../../protos/$$f >/dev/null || { echo "protos/$$f is stale: run make protos"; exit 1; }; done
	@echo "generated code is up to date"

clients:  ## Build the clients for Node and C++ (needs npm; cmake, g++, libgrpc++-dev, libprotobuf-dev, protobuf-compiler-grpc)
	cd clients/node && npm ci && npm run build
	cmake -S clients/cpp -B clients/cpp/build && cmake --build clients/cpp/build --parallel

DIST ?= dist
# The time that archives say they were made at: the last commit's, so that the same commit gives the same bytes.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 315532800)
export SOURCE_DATE_EPOCH
wheels: $(STAMP)  ## Build wheels and sdists of the four packages into dist/, and check them
	rm -rf "$(DIST)"
	for package in protos clients/python server export; do \
	  $(BIN)/python -m build --no-isolation --outdir "$(DIST)" $$package || exit 1; done
	$(BIN)/python -m twine check --strict "$(DIST)"/*

TAG ?=
release: $(STAMP)  ## Set VERSION=1.2.3 everywhere and build dist/: packages, SBOM, checksums; with TAG=1 on a clean tree, tag it
	$(BIN)/python -m release set "$(VERSION)" $(if $(TAG),--committed)
	$(MAKE) --no-print-directory --old-file $(STAMP) wheels
	$(BIN)/python -m release seal "$(VERSION)" --dist "$(DIST)"
	$(if $(TAG),$(BIN)/python -m release tag "$(VERSION)")

audit: $(STAMP)  ## Ask PyPI for known holes in what is installed in .venv (needs the network)
	$(BIN)/pip-audit --strict --skip-editable --progress-spinner off

outside: $(STAMP)  ## Install other people's programs, for the tests that use them (tritonclient, perf_analyzer, kserve, buf, libraries of recurrent models)
	PYTHON=$(PYTHON) .ci/outside

# Everything, with onnxruntime-gpu in the place of onnxruntime, which the exporter asks for: the two must never be in one environment.
.venv-cuda/.installed: requirements-dev.txt server/pyproject.toml export/pyproject.toml
	test -x .venv-cuda/bin/python || $(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements-dev.txt \
	  -e ./protos -e "./clients/python[cli]" -e "./server[gpu,uvloop]" -e ./export
	.venv-cuda/bin/pip uninstall --quiet --yes onnxruntime
	.venv-cuda/bin/pip install --quiet --force-reinstall --no-deps "onnxruntime-gpu>=1.31"
	touch $@

GPU ?= cuda
gpu-check: .venv-cuda/.installed  ## Check and measure the CUDA path on this machine's GPU (eight minutes at most; GPU=cpu without one)
	.venv-cuda/bin/python -m bench.gpu_check --device $(GPU)

bench: $(STAMP)  ## Measure against the bare runtime (about seven minutes)
	$(BIN)/python -m bench.run

bench-durability: $(STAMP)  ## Measure durable sessions against sessions in memory (about a minute); needs redis-server
	$(BIN)/python -m bench.durability

ENGINE ?= docker
TARGET ?= cpu
# Empty: statecell-server:VERSION, with -gpu behind it, or statecell-export:VERSION.
IMAGE ?=
# Empty: python:3.12-slim, as the Dockerfile says. BUILD_FLAGS: more options of the engine's own, such as --build-arg PIP_INDEX_URL=...
BASE ?=
BUILD_FLAGS ?=
# For several architectures at once, pushed: PLATFORMS=linux/amd64,linux/arm64 REGISTRY=ghcr.io/somebody/
PLATFORMS ?=
REGISTRY ?=
image:  ## Build a container image: TARGET=cpu, gpu or export (ENGINE=docker, podman or buildah)
	ENGINE="$(ENGINE)" TARGET="$(TARGET)" IMAGE="$(IMAGE)" BASE="$(BASE)" PLATFORMS="$(PLATFORMS)" REGISTRY="$(REGISTRY)" \
	  deploy/build.sh $(BUILD_FLAGS)

clean:  ## Remove what the other commands made
	rm -rf .venv .venv-gpu .venv-cuda .venv-protos .venv-triton .venv-buf .venv-deploy models out dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
