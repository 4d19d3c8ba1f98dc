# Thin on purpose: each target is one script or one cargo command.

.PHONY: demo test check deny bench soak fuzz openapi fault-matrix large deb deb-test oci

demo: ## A real VM frozen and thawed over HTTP, then yours to play with until Ctrl-C
	@scripts/demo

test: ## Everything: format, lints, docs, unit, property, wire, interop, OpenAPI, real VMs
	@scripts/test

check: ## The quick part of `make test`: format and lints
	@scripts/check

deny: ## Licences, bans and sources of what we depend on, by deny.toml
	@scripts/deny

bench: ## Our agent, qemu-ga and a bare server side by side; the gateway beside bare axum
	@scripts/bench

soak: ## An hour with 1,000 simulated VMs, mixed load and random faults: nothing grows, no lease is lost
	@scripts/soak

fuzz: ## Every parser and the HTTP layer, SECONDS=60 each; what does harm is kept in the corpora
	@scripts/fuzz $(SECONDS)

openapi: ## Regenerate openapi/gateway.json from the router
	@cargo run --quiet --package qga-gateway -- openapi > openapi/gateway.json.new && mv openapi/gateway.json.new openapi/gateway.json

fault-matrix: ## Run every fault at every point of a freeze, and write what came of it to docs/fault-matrix.md
	@cargo build --quiet --package qga-gateway --package qga-e2e --bins
	@QGA_MATRIX=write cargo test --quiet --package qga-e2e --test it faults::matrix

large: ## A GiB into a real VM and out again, with both agents; minutes under emulation
	@cargo build --profile agent --quiet --package qga-agent
	@cargo build --quiet --package qga-gateway --package qga-e2e --bins
	@QGA_LARGE_MIB=1024 cargo test --quiet --package qga-e2e --test it rest_large -- --nocapture --test-threads=1

deb: ## Debian packages of the gateway and the agent, in target/deb
	@scripts/deb

deb-test: ## Install, upgrade during a freeze, remove and purge the packages in a root of their own; run the image
	@cargo build --quiet --package qga-gateway --package qga-e2e --bins
	@scripts/deb-test
	@scripts/oci-test

oci: ## An OCI image with the static gateway and nothing else, in target/oci
	@cargo build --quiet --release --package qga-gateway
	@scripts/oci target/*/release/qga-gateway
