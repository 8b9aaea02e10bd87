#!/bin/sh
# Certificates of the cluster, made the first time. The authority and its key stay in /srv/engram, which no other container has.
set -eu
umask 077
tls=/etc/engram/tls
# one that ends within the month still works, and the operator should hear of it
month_s=2592000

if [ -e "$tls/cert.pem" ]; then
  if ! openssl x509 -in "$tls/cert.pem" -noout -checkend "$month_s" >/dev/null; then
    openssl x509 -in "$tls/cert.pem" -noout -enddate >&2
    echo "The cluster's certificate ends within 30 days: remove the volume 'tls' while all is down, and start again." >&2
  fi
  exit 0
fi
[ -e /srv/engram/ca.pem ] || sh /opt/tls/make-certs.sh /srv/engram
sh /opt/tls/make-certs.sh --ca /srv/engram "$tls" extract-scheduler train-scheduler
