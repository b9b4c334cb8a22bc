# What a person runs; continuous integration (.ci/run) runs the same. Anything longer than three lines is a script.
SHELL := /bin/bash
PYTHON := .venv/bin/python

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

demo: .venv/installed  ## Search, train and serve on handwritten digits: no Docker, no cloud, 1.5 minutes
	@$(PYTHON) -m components.demo

setup: .venv/installed  ## Install the development environment into .venv, from hashed locks
	@echo ".venv is ready"

.venv/installed: tests/requirements.txt containers/uv.txt
	@.ci/setup.sh

lock: .venv/installed  ## Write the locks anew from pyproject.toml (UPGRADE=1: newest versions)
	@.ci/lock.sh

lint: .venv/installed  ## Check style, types, Dockerfiles and shell scripts
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy
	@.venv/bin/hadolint containers/*/Dockerfile && for script in .ci/* containers/*.sh; do bash -n "$$script" || exit 1; done

format: .venv/installed  ## Format the code and mend what can be mended
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

test: .venv/installed  ## Run the tests, with Docker where it answers (SLOW=1: slow ones too; REQUIRE_DOCKER=1: all, or fail)
	@$(PYTHON) -m pytest

soak: .venv/installed  ## Do to the server all that it must survive, in full: two hours (MINUTES=60 at steady load; ARGS="-k stop")
	@KENNEL_SOAK=1 KENNEL_SOAK_MINUTES=$(or $(MINUTES),60) $(PYTHON) -m pytest tests/serving/faults --timeout 1800 $(ARGS)

bench-train: .venv/installed  ## Measure a training against the script that people copy: 30 minutes (ARGS="--pictures 400")
	@$(PYTHON) -m tests.bench.train $(ARGS)

bench-tune: .venv/installed  ## Measure a search against as many runs of the script that people copy (ARGS="--pictures 400")
	@$(PYTHON) -m tests.bench.tune $(ARGS)

bench-gpu: .venv/installed  ## Measure full fine-tuning on this machine's GPU against the same loop without data
	@$(PYTHON) -m tests.bench.gpu $(ARGS)

bench-serve: .venv/installed  ## Measure the server against its peers: 30 minutes (ARGS="--only kennel,litserve --rounds 1")
	@$(PYTHON) -m tests.bench.serve $(ARGS)

bench-decode: .venv/installed  ## Measure decoding, and what its short cuts do to answers (ARGS="--model DIR --images DIR")
	@$(PYTHON) -m tests.bench.decode $(ARGS)

bench-serve-gpu: .venv/installed  ## Measure serving on this machine's GPU against the same network without a server
	@$(PYTHON) -m tests.bench.serve_gpu $(ARGS)

data: .venv/installed  ## Fetch a public data set: DATASET=dogs|cifar10|digits (DIR=, S3=s3://BUCKET/PREFIX, MIRROR=, SHA256=)
	@$(PYTHON) -m components.data

weights: .venv/installed  ## Fetch torchvision's weights for jobs without network: ARCH=resnet50 (DIR=, S3=, MIRROR=)
	@$(PYTHON) -m components.data.weights

build:  ## Build the container images (BASE=, CA_BUNDLE=, PIP_CONF=, TARGETS=: see containers/build.sh)
	@containers/build.sh

push: .venv/installed  ## Push the images to REGISTRY (default: the ECR registry of your AWS account and region)
	@$(PYTHON) -m components.aws.ecr

up:  ## Serve the demo's bundle, or MODEL=DIR, in a container on 127.0.0.1:8080 (GPU=1: on the GPU)
	@containers/up.sh

down:  ## Stop what `make up` started
	@docker compose --profile '*' down

clean:  ## Remove the demo's results and the caches; .venv and the images stay
	rm -rf demo out .mypy_cache .ruff_cache .pytest_cache
	find components serving tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help demo setup lock lint format test soak bench-train bench-tune bench-gpu bench-serve bench-decode bench-serve-gpu data weights build push up down clean
