#!/bin/sh
# Certificates of the cluster, made the first time. The authority and its key stay in /srv/engram, which no other container has.
set -eu
umask 077
tls=${ENGRAM_CERTS_TO:-/etc/engram/tls}
authority=${ENGRAM_CERTS_AUTHORITY:-/srv/engram}
make_certs=${ENGRAM_CERTS_SCRIPT:-/opt/tls/make-certs.sh}
# one that ends within the month still works, and the operator should hear of it
month_s=2592000

if [ -e "$tls/cert.pem" ]; then
  if ! openssl x509 -in "$tls/cert.pem" -noout -checkend "$month_s" >/dev/null; then
    openssl x509 -in "$tls/cert.pem" -noout -enddate >&2
    echo "The cluster's certificate ends within 30 days: remove the volume 'tls' while all is down, and start again." >&2
  fi
  exit 0
fi
[ -e "$authority/ca.pem" ] || sh "$make_certs" "$authority"
sh "$make_certs" --ca "$authority" "$tls" extract-scheduler train-scheduler
