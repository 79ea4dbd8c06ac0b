#!/usr/bin/env bash
# The peers of the benchmarks, into the cache: Telegraf through Go (a minute or two), Node-RED through npm, the clients of
# mosquitto and PostgreSQL as Debian packages. Whatever cannot be had is said, and its row then says "not run here".
set -u
peers="${XDG_CACHE_HOME:-$HOME/.cache}/yizhan/peers"
mkdir -p "$peers"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mosquitto-clients postgresql-client >/dev/null || echo "no clients"
fi
if [ ! -x "$peers/telegraf" ] && command -v go >/dev/null; then
  echo "building Telegraf"
  GOBIN="$peers" go install -tags "custom,inputs.mqtt_consumer,outputs.postgresql,parsers.json_v2" \
    github.com/influxdata/telegraf/cmd/telegraf@v1.37.1 || echo "Telegraf could not be built"
fi
if [ ! -d "$peers/nodered/node_modules/node-red" ] && command -v npm >/dev/null; then
  echo "installing Node-RED"
  mkdir -p "$peers/nodered" && (cd "$peers/nodered" && npm init -y >/dev/null && npm install --no-audit --no-fund node-red@4 pg >/dev/null) ||
    echo "Node-RED could not be installed"
fi
if [ ! -x "$peers/rules/bin/python" ]; then
  echo "installing the peers of the rules"
  python3 -m venv "$peers/rules" &&
    "$peers/rules/bin/pip" install --quiet numpy pyarrow polars==2.1.0 duckdb==2.0.1 numba==0.68.1 bytewax==0.21.1 durable_rules==2.0.28 ||
    echo "not all of them could be installed"
fi
exit 0
