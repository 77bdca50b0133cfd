#!/bin/sh
# Prints the Secrets that overlays/production needs: certificates of an authority of its own, users of
# the store with random passwords, and a signing key for the token service.
#
#   k8s/secrets.sh NAMESPACE FOLDER | kubectl apply -f -
#
# What it made stays in FOLDER and is used again the next time: keep that as you keep keys, and
# delete what is to be made anew. It needs openssl, kubectl (no cluster), and authz on PATH; or what
# to put before a command so that it is, as in IN="docker run --rm --tmpfs /tmp authz:0.1.0".
set -eu
umask 077
namespace=$1 folder=$2
days=825
mkdir -p "$folder"
cd "$folder"

[ -e ca.key ] || {
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -days 3650 -subj "/CN=authz $namespace" -out ca.crt \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign"
}

# A certificate for a Service and the pods behind it.
certificate() {
    [ -e "$1.crt" ] && return
    openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
    names="DNS:$1,DNS:$1.$namespace.svc,DNS:*.$1.$namespace.svc,DNS:$1.$namespace.svc.cluster.local"
    # The identifiers: Python 3.13 takes no certificate without them.
    cat > "$1.ext" << EXTENSIONS
subjectAltName=$names
basicConstraints=CA:FALSE
extendedKeyUsage=serverAuth,clientAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
EXTENSIONS
    openssl req -new -key "$1.key" -subj "/CN=$1" |
        openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" \
            -extfile "$1.ext" -out "$1.crt" 2> /dev/null
    rm "$1.ext"
}

password() {
    [ -e "$1.password" ] || openssl rand -hex 32 | tr -d '\n' > "$1.password"
}

# `#` and the SHA-256 of the password: the server needs to know no more.
hash() {
    printf '#%s' "$(openssl dgst -sha256 -r "$1.password" | cut -d ' ' -f 1)"
}

secret() {
    name=$1
    shift
    kubectl create secret generic "$name" --namespace "$namespace" --dry-run=client -o yaml "$@"
    echo ---
}

certificate redis-cluster
certificate token-service
for user in admin health replica authz-check authz-revoke authz-tokens; do
    password "$user"
done
if [ ! -e signing.json ]; then
    ${IN:-} sh -ec 'folder=$(mktemp -d) && trap "rm -r $folder" EXIT
        authz keys generate --type ec --out "$folder/signing.json" >&2
        cat "$folder/signing.json"' > signing.new
    mv signing.new signing.json
fi

cat > users.acl <<ACL
user default off
user admin on $(hash admin) resetchannels +cluster +dbsize +ping +hello +client|setname
user health on $(hash health) resetchannels +cluster|info +info +ping +hello
user replica on $(hash replica) resetchannels +psync +replconf +ping
user authz-check on $(hash authz-check) resetchannels &jwt:* %R~jwt:* %W~jwt:*:used:* +set +mget +get +hmget +xrange +scan +pexpiretime +subscribe +asking +ping +client|setname +cluster|slots
user authz-revoke on $(hash authz-revoke) resetchannels &jwt:* ~jwt:* +evalsha +eval +get +set +pexpiretime +xadd +xrange +hmget +hset +time +publish +wait +info +client|setname +cluster|slots
user authz-tokens on $(hash authz-tokens) resetchannels &jwt:* ~jwt:* +evalsha +eval +get +set +mget +hget +hgetall +hset +hdel +hmget +pexpireat +pexpiretime +xadd +xrange +publish +time +wait +info +subscribe +pttl +rename +exists +incrby +asking +ping +client|setname +cluster|slots +command +script|load
ACL
printf 'masteruser replica\nmasterauth %s\n' "$(cat replica.password)" > replication.conf

secret redis-cluster-tls --from-file=tls.crt=redis-cluster.crt --from-file=tls.key=redis-cluster.key \
    --from-file=ca.crt
secret redis-cluster-users --from-file=users.acl --from-file=replication.conf \
    --from-file=admin-password=admin.password --from-file=health-password=health.password
secret token-service-tls --from-file=tls.crt=token-service.crt --from-file=tls.key=token-service.key
secret token-service-signing --from-file=signing.json
secret authz-store --from-file=password=authz-check.password --from-file=ca.crt
secret authz-store-tokens --from-file=password=authz-tokens.password --from-file=ca.crt
secret authz-store-revoke --from-file=password=authz-revoke.password --from-file=ca.crt
