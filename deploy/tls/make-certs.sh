#!/bin/sh
# Makes what Dask needs to speak TLS: an authority of its own and one certificate that scheduler, workers and clients share.
#
#   make-certs.sh OUT [NAME ...]              OUT/ca.pem ca-key.pem cert.pem key.pem, for the host names or addresses NAME
#   make-certs.sh --ca FOLDER OUT [NAME ...]  another certificate of the authority in FOLDER: OUT/ca.pem cert.pem key.pem
#
# Who holds a certificate of this authority may run code on the cluster: Dask asks for nothing else. So key.pem goes to the cluster's
# own machines and people, and ca-key.pem to none of them: keep it apart, it signs the next certificate before this one ends.
# The keys are on P-256. ENGRAM_TLS_DAYS (default and most 825) is how long certificates are good for; the authority, ten years.
# Nothing is overwritten, and all files are their owner's alone: containers run as user 10001, so give them key.pem by
# `chown 10001:10001`, a secret, or a volume that was filled by the same user.
set -eu
umask 077

fail() { echo "make-certs.sh: $*" >&2; exit 2; }

authority=
if [ "${1:-}" = --ca ]; then
  [ $# -ge 3 ] || fail "expected --ca FOLDER OUT [NAME ...]"
  authority=$2
  shift 2
fi
[ $# -ge 1 ] || fail "expected OUT [NAME ...]"
case $1 in -*) fail "expected a folder, got the option '$1'" ;; esac
out=$1
shift
command -v openssl >/dev/null || fail "there is no openssl on the PATH"
days=${ENGRAM_TLS_DAYS:-825}
case $days in '' | *[!0-9]*) fail "expected a number of days in ENGRAM_TLS_DAYS, got '$days'" ;; esac
[ "$days" -ge 1 ] && [ "$days" -le 825 ] || fail "expected 1 to 825 days in ENGRAM_TLS_DAYS, got $days"

names=DNS:localhost,IP:127.0.0.1,IP:::1
for name in "$@"; do
  case $name in
    '' | *[!A-Za-z0-9.:*-]*) fail "'$name' is no host name or address" ;;
    *:*) names=$names,IP:$name ;;
    *[!0-9.]*) names=$names,DNS:$name ;;
    *) names=$names,IP:$name ;;
  esac
done
for file in ca.pem ca-key.pem cert.pem key.pem; do
  [ ! -e "$out/$file" ] || fail "$out/$file is there already, and is not overwritten: give another folder"
done
if [ -n "$authority" ]; then
  for file in ca.pem ca-key.pem; do
    [ -r "$authority/$file" ] || fail "$authority/$file cannot be read: is it the folder of an authority that this script made?"
  done
fi

mkdir -p "$out"
made=$(mktemp -d "$out/.making.XXXXXX")
trap 'rm -rf "$made"' EXIT
trap 'exit 130' INT TERM

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

if [ -z "$authority" ]; then
  new_key "$made/ca-key.pem"
  openssl req -x509 -new -sha256 -key "$made/ca-key.pem" -days 3650 -subj "/O=Engram/CN=Engram cluster authority" \
    -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign -out "$made/ca.pem"
  authority=$made
else
  cp "$authority/ca.pem" "$made/ca.pem"
fi

new_key "$made/key.pem"
openssl req -new -sha256 -key "$made/key.pem" -subj "/O=Engram/CN=Engram cluster member" -out "$made/request"
cat >"$made/extensions" <<END
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth,clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $names
END
serial=0x$(openssl rand -hex 16)
openssl x509 -req -sha256 -in "$made/request" -CA "$authority/ca.pem" -CAkey "$authority/ca-key.pem" -set_serial "$serial" \
  -days "$days" -extfile "$made/extensions" -out "$made/cert.pem" 2>"$made/told" || { cat "$made/told" >&2; exit 1; }
openssl verify -CAfile "$made/ca.pem" "$made/cert.pem" >/dev/null

rm -f "$made/request" "$made/extensions" "$made/told"
# the certificate last: where it is, the others are
for file in ca-key.pem ca.pem key.pem cert.pem; do
  [ ! -e "$made/$file" ] || ln "$made/$file" "$out/$file"
done
echo "$out: certificates for $names, good for $days days"
