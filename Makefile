# vhostkit. "make" lists the targets; "make demo" shows what it is, "make test" checks everything.

SHELL := /bin/bash
GO := test/setup/go.sh
VERSION := $(shell git -c safe.directory='$(CURDIR)' describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X vhostkit/internal/version.Version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
KEEP_ENV := VHOSTKIT_CACHE,VHOSTKIT_AGENT,VHOSTKIT_KERNEL,VHOSTKIT_MODULES,VHOSTKIT_QEMU,VHOSTKIT_ACCEL,NO_COLOR
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=$(KEEP_ENV))
CACHE := $(shell . test/setup/lib.sh && cache_dir)
# Everything that is not end to end; those tests run on their own, with the machine to themselves.
UNIT = $(shell $(GO) list ./... 2>/dev/null | grep -v -e /test/e2e -e /test/bench -e /test/packages -e /test/cold -e /test/attacks)
E2E := ./test/e2e/... ./test/attacks/... ./test/cold/... ./test/packages/... ./test/bench/...
FUZZTIME ?= 10m
# cgo is for libvirt's library alone, which vhostctl loads when it runs: neither it nor its headers are needed for building.
export CGO_ENABLED ?= 0
export GOFLAGS += -tags=libvirt_dlopen
BUILD := build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/
.NOTPARALLEL:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the programs into bin/
	@test/setup/install.sh go
	@mkdir -p bin
	$(GO) $(BUILD) ./cmd/switchd ./cmd/qemu-wrap
	CGO_ENABLED=1 $(GO) $(BUILD) ./cmd/vhostctl

.PHONY: man
man: build ## the manual pages into bin/man/
	@mkdir -p bin/man
	bin/switchd --man >bin/man/switchd.8
	bin/vhostctl man >bin/man/vhostctl.8
	bin/qemu-wrap --wrap-man >bin/man/qemu-wrap.8

PREFIX ?= /usr
SBIN := $(DESTDIR)$(PREFIX)/bin
SHARE := $(DESTDIR)$(PREFIX)/share
LIB := $(DESTDIR)$(PREFIX)/lib
# A package's version begins with a digit: that of the tag, or the commit behind 0.0.0.
PACKAGE_VERSION := $(shell echo '$(VERSION)' | sed -E 's/^v//; t; s/^/0.0.0+/')
NFPM := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.1

.PHONY: install
install: man ## programs, units, manual pages, completion; DESTDIR and PREFIX (/usr) as usual
	umask 022; install -d $(SBIN) $(LIB)/systemd/system $(LIB)/sysusers.d $(LIB)/tmpfiles.d $(LIB)/udev/rules.d $(SHARE)/man/man8 $(SHARE)/bash-completion/completions \
		$(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d $(SHARE)/doc/vhostkit
	install -m 755 bin/switchd bin/vhostctl bin/qemu-wrap $(SBIN)
	umask 022; for unit in systemd/*.service systemd/*.socket; do \
		sed 's|/usr/bin/|$(PREFIX)/bin/|' "$$unit" >$(LIB)/systemd/system/"$${unit##*/}" || exit 1; \
	done
	install -m 644 systemd/sysusers.d/vhostkit.conf $(LIB)/sysusers.d
	install -m 644 systemd/tmpfiles.d/vhostkit.conf $(LIB)/tmpfiles.d
	install -m 644 templates/usvhost.rules $(LIB)/udev/rules.d/60-vhostkit.rules
	install -m 644 bin/man/*.8 $(SHARE)/man/man8
	umask 022; bin/switchd --completion bash >$(SHARE)/bash-completion/completions/switchd
	umask 022; bin/switchd --completion zsh >$(SHARE)/zsh/site-functions/_switchd
	umask 022; bin/switchd --completion fish >$(SHARE)/fish/vendor_completions.d/switchd.fish
	umask 022; bin/vhostctl completion bash >$(SHARE)/bash-completion/completions/vhostctl
	umask 022; bin/vhostctl completion zsh >$(SHARE)/zsh/site-functions/_vhostctl
	umask 022; bin/vhostctl completion fish >$(SHARE)/fish/vendor_completions.d/vhostctl.fish
	install -m 644 README.md LICENSE templates/switchd.toml templates/qemu-wrap.toml systemd/examples/*.conf $(SHARE)/doc/vhostkit
	@# On the machine itself the units can be started next.
	@if [ -z '$(DESTDIR)' ] && command -v systemd-sysusers >/dev/null; then \
		systemd-sysusers $(LIB)/sysusers.d/vhostkit.conf && systemd-tmpfiles --create $(LIB)/tmpfiles.d/vhostkit.conf; \
		if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi; \
	fi

.PHONY: uninstall
uninstall: ## what install put there
	rm -f $(SBIN)/switchd $(SBIN)/vhostctl $(SBIN)/qemu-wrap $(LIB)/systemd/system/switchd.service $(LIB)/systemd/system/switchd.socket \
		$(LIB)/systemd/system/vhostkit-hugepages.service $(LIB)/sysusers.d/vhostkit.conf $(LIB)/tmpfiles.d/vhostkit.conf \
		$(LIB)/udev/rules.d/60-vhostkit.rules $(SHARE)/man/man8/switchd.8 $(SHARE)/man/man8/vhostctl.8 $(SHARE)/man/man8/qemu-wrap.8 \
		$(SHARE)/bash-completion/completions/vhostctl $(SHARE)/zsh/site-functions/_vhostctl $(SHARE)/fish/vendor_completions.d/vhostctl.fish \
		$(SHARE)/bash-completion/completions/switchd $(SHARE)/zsh/site-functions/_switchd $(SHARE)/fish/vendor_completions.d/switchd.fish
	rm -rf $(SHARE)/doc/vhostkit

PACKAGE_DIR ?= bin
STAGE ?= .cache/stage

.PHONY: packages
packages: ## .deb and .rpm into bin/
	rm -rf '$(STAGE)'
	@$(MAKE) --no-print-directory install DESTDIR='$(STAGE)' PREFIX=/usr
	@# Not in the tree, of which nfpm takes every directory: /usr/lib/udev belongs to others.
	mv '$(STAGE)/usr/lib/udev/rules.d/60-vhostkit.rules' '$(STAGE).udev' && rmdir -p --ignore-fail-on-non-empty '$(STAGE)/usr/lib/udev/rules.d'
	sed 's|@WRAPPER@|/usr/bin/qemu-wrap|; s|@DEVICES@|/dev/usvhost* rw,|' templates/apparmor-libvirt-qemu >'$(STAGE).apparmor'
	chmod 644 '$(STAGE).apparmor'
	glibc=$$(objdump -T bin/vhostctl | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1); \
	[ -n "$$glibc" ] || { echo "objdump (binutils) does not tell which glibc vhostctl needs" >&2; exit 1; }; \
	mkdir -p '$(PACKAGE_DIR)'; \
	for kind in deb rpm; do \
		GLIBC=$${glibc#GLIBC_} ARCH=$$($(GO) env GOARCH) VERSION='$(PACKAGE_VERSION)' STAGE='$(STAGE)' $(GO) run $(NFPM) package \
			--config templates/package/nfpm.yaml --packager $$kind --target '$(PACKAGE_DIR)/' || exit 1; \
	done

.PHONY: demo
demo: ## two guests talk through switchd, on this machine (needs root or sudo)
	@test/setup/install.sh demo
	@$(MAKE) --no-print-directory build
	@mkdir -p .cache
	@$(GO) build -trimpath -buildvcs=false -o .cache/agent ./test/guest/agent
	@$(GO) build -trimpath -buildvcs=false -o .cache/demo ./test/demo
	@VHOSTKIT_CACHE='$(CACHE)' VHOSTKIT_AGENT='$(CURDIR)/.cache/agent' \
		$(SUDO) .cache/demo -bin bin

.PHONY: test
test: ## everything: lint, unit, race, fuzz, end to end (under 30 minutes on 2 cores)
	@test/setup/install.sh test
	@$(MAKE) --no-print-directory lint build
	@$(MAKE) --no-print-directory unit race fuzz-short e2e

.PHONY: test-short
test-short: lint-own vet unit ## style and unit tests only

.PHONY: lint
lint: lint-own vet staticcheck ## all that looks at the sources only

.PHONY: lint-own
lint-own: ## checks of our own: format, imports, unsafe, length, spelling, variables, go.mod (test/lint)
	@$(GO) run ./test/lint

BASE ?= origin/main
.PHONY: lint-commits
lint-commits: ## the commits since BASE (origin/main): subjects of at most 72 characters, and a body
	@$(GO) run ./test/lint -commits '$(BASE)'

.PHONY: module
module: ## give the module another path, MODULE=host/path: that of whoever hosts it, so that others can import it
	$(GO) run ./test/module '$(MODULE)'

.PHONY: vet
vet: ## go vet
	$(GO) vet ./...
	CGO_ENABLED=1 $(GO) vet ./libvirt/... ./cmd/vhostctl
	GOARCH=arm64 $(GO) vet ./switchd/... ./qemuwrap/... ./cmd/switchd ./cmd/qemu-wrap

.PHONY: staticcheck
staticcheck: ## staticcheck, at a fixed version
	$(GO) run $(STATICCHECK) ./...
	CGO_ENABLED=1 $(GO) run $(STATICCHECK) ./libvirt/... ./cmd/vhostctl

.PHONY: unit
unit: ## the tests that are not end to end
	VHOSTKIT_STRESS_ROUNDS=10000000 $(GO) test -count=1 -timeout 15m $(UNIT)

.PHONY: race
race: ## the same under the race detector
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 15m $(UNIT)

.PHONY: e2e
e2e: ## end to end: QEMU guests, testpmd, hostile front-ends (root); RUN=Name one of them, KEEP=1 keeps its files
ifdef RUN
	@$(GO) test -list '^$(firstword $(subst /, ,$(RUN)))$$' $(or $(PKG),./test/e2e) | grep -q '^Test' || \
		{ echo "no test $(RUN) in $(or $(PKG),./test/e2e); PKG=./test/attacks looks there" >&2; exit 1; }
	@VHOSTKIT_SHOW=1 VHOSTKIT_KEEP='$(KEEP)' VHOSTKIT_QEMU_ARGS='$(QEMU_ARGS)' \
		$(GO) test -v -count=1 -p 1 -timeout 25m -run '^$(RUN)$$' $(or $(PKG),./test/e2e)
else
	$(GO) test -count=1 -p 1 -timeout 25m $(E2E)
endif

SOAK_FUZZTIME ?= 5m
SOAK_COUNT ?= 10
.PHONY: soak
soak: ## what takes hours (root): fuzzing, endurance, attacks and cold starts many times
	test/setup/fuzz.sh $(SOAK_FUZZTIME)
	VHOSTKIT_STRESS_ROUNDS=100000000 $(GO) test -v -count=1 -timeout 3h -run 'NoLostWakeUps|EdgeOfSleep|NobodyOversleeps' ./switchd/virtio ./switchd/forward ./test/wakeup
	$(GO) test -count=$(SOAK_COUNT) -p 1 -timeout 6h ./test/attacks ./test/cold

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (10m)
	test/setup/fuzz.sh $(FUZZTIME)

.PHONY: fuzz-short
fuzz-short: ## each fuzz target for 5 seconds; make soak has 5 minutes
	test/setup/fuzz.sh 15s

.PHONY: bench
bench: ## switchd against the switches that can be had beside it (root, two cores, about 20 minutes); BENCH="-short" for a look
	@test/setup/install.sh bench
	@$(MAKE) --no-print-directory build
	@mkdir -p .cache
	@$(GO) build -trimpath -buildvcs=false -o .cache/bench ./test/bench
	$(SUDO) .cache/bench $(BENCH)

.PHONY: bench-go
bench-go: ## the benchmarks of the parts, for benchstat
	$(GO) test -run '^$$' -bench . -benchmem -timeout 30m $(UNIT)

.PHONY: clean
clean: ## remove what the build made; the cache of kernels and Go stays
	rm -rf bin .cache
