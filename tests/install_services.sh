#!/usr/bin/env bash
# Installs what the tests need, once: Debian packages as root, TimescaleDB in a Debian 13 root folder of its own
# (Debian 12 has none), and Kafka's jars through Maven. Whatever cannot be had is said here; the lane that needs it then skips with its reason, or
# fails where REQUIRE_SERVICES=1. The cache lies outside the tree: ${XDG_CACHE_HOME:-~/.cache}/yizhan.
set -u
packages=(mosquitto dbus chromium chromium-driver fonts-wqy-microhei mmdebstrap debian-archive-keyring util-linux
          openjdk-17-jre-headless maven)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/yizhan"
root="$cache/timescaledb"

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || echo "some packages could not be installed"
  else
    echo "not root: cannot install ${missing[*]}; their lanes will say so"
  fi
fi

if [ ! -e "$root/.complete" ] && [ "$(id -u)" = 0 ] && command -v mmdebstrap >/dev/null; then
  echo "building the TimescaleDB folder (half a minute, 530 MB, once)"
  mkdir -p "$cache" && rm -rf "$root"
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 '/debian/*$')
  if mmdebstrap --quiet --variant=apt --include=postgresql-17-timescaledb trixie "$root" ${mirror:+"$mirror"} 2>"$cache/timescaledb.log"; then
    touch "$root/.complete"
  else
    echo "TimescaleDB could not be built; its lane will say so ($(tail -n 1 "$cache/timescaledb.log"))"
  fi
fi

kafka="$cache/kafka"
if [ ! -e "$kafka/.complete" ] && command -v mvn >/dev/null; then
  echo "fetching Kafka (ten seconds, 43 MB, once)"
  rm -rf "$kafka" && mkdir -p "$kafka"
  cat >"$kafka/pom.xml" <<'POM'
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>yizhan</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.1.0</version></dependency>
  </dependencies>
</project>
POM
  if (cd "$kafka" && mvn -q -B dependency:copy-dependencies -DoutputDirectory=libs -DincludeScope=runtime) >"$cache/kafka.log" 2>&1; then
    touch "$kafka/.complete"
  else
    echo "Kafka could not be fetched; its lane will say so ($(tail -n 1 "$cache/kafka.log"))"
  fi
fi
exit 0
