#!/usr/bin/env bash
# A certificate that scheduler, workers and driver of one user share, so that they speak TLS with each other
# and with nobody else.
#
#   bash cluster/make_certificates.sh FOLDER         a new folder, on a disk that all nodes see
#   export VOXELMILL_TLS=FOLDER                      the scripts in cluster/batch
#   source FOLDER/tls.sh                             everything else: dask scheduler, dask worker, voxelmill
#
# FOLDER then holds ca.pem (whom to trust), cert.pem and key.pem (who one is), and tls.sh, Dask's settings,
# which name them. Keep key.pem to yourself: who has it can let tasks run as you. All are valid for 90 days.
# The authority's key is thrown away, so that no other certificate is ever trusted. Dask checks no host names.
set -euo pipefail
umask 077

die() { echo "make_certificates: $*" >&2; exit 2; }
[[ $# == 1 && $1 != -* ]] || die "one word is needed, the folder to make."
command -v openssl >/dev/null || die "openssl is not installed."
mkdir "$1" 2>/dev/null || die "$1 exists, or cannot be made; name a new folder."
cd "$1"

quietly() { "$@" 2>openssl.log || die "openssl failed: $(tail -n 1 openssl.log)"; }
new_key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
printf '%s\n' '[req]' 'distinguished_name = name' '[name]' \
    '[authority]' 'basicConstraints = critical, CA:TRUE' 'keyUsage = critical, keyCertSign, cRLSign' \
    'subjectKeyIdentifier = hash' \
    '[member]' 'basicConstraints = critical, CA:FALSE' 'keyUsage = critical, digitalSignature' \
    'subjectKeyIdentifier = hash' 'authorityKeyIdentifier = keyid' >openssl.cnf
quietly openssl req -config openssl.cnf -x509 -extensions authority "${new_key[@]}" -days 90 \
    -subj "/CN=voxelmill authority" -keyout ca.key -out ca.pem
quietly openssl req -config openssl.cnf "${new_key[@]}" -subj "/CN=voxelmill" -keyout key.pem -out request.pem
quietly openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 90 \
    -extfile openssl.cnf -extensions member -out cert.pem
rm -f ca.key ca.srl request.pem openssl.cnf openssl.log

cat >tls.sh <<'END'
# Dask speaks TLS, with the certificate in this file's folder, and refuses anyone without one. To be sourced.
tls=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME=tls
export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True
export DASK_DISTRIBUTED__COMM__TLS__CA_FILE=$tls/ca.pem
for role in SCHEDULER WORKER CLIENT; do
    export "DASK_DISTRIBUTED__COMM__TLS__${role}__CERT=$tls/cert.pem"
    export "DASK_DISTRIBUTED__COMM__TLS__${role}__KEY=$tls/key.pem"
done
unset tls role
END
echo "made $PWD; now: export VOXELMILL_TLS=$(printf '%q' "$PWD")   or: source $(printf '%q' "$PWD/tls.sh")"
