#!/usr/bin/env bash
# A certificate for trying things out: deploy/certs.sh FOLDER [NAME...] writes ca.pem, cert.pem, key.pem and haproxy.pem there, for localhost and NAMEs.
set -euo pipefail
folder=${1:?the folder to write to}
shift
names=DNS:localhost,IP:127.0.0.1
for name in "$@"; do names+=,DNS:$name; done
mkdir -p "$folder"
cd "$folder"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=statecell trial CA" -keyout ca.key -out ca.pem \
  -addext "basicConstraints=critical,CA:TRUE" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=statecell" -keyout key.pem -out request.pem 2>/dev/null
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -out cert.pem \
  -extfile <(printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\n' "$names") 2>/dev/null
cat cert.pem key.pem > haproxy.pem
rm -f request.pem ca.key ca.srl
chmod 644 key.pem haproxy.pem   # the proxies in containers are other users
