#!/bin/sh
# Stands in for the entrypoint of the image temporalio/server: the development server, after a check of what the
# real server needs.
set -eu
test -r "$DYNAMIC_CONFIG_FILE_PATH"
for database in "$DBNAME" "$VISIBILITY_DBNAME"; do
    PGPASSWORD="$POSTGRES_PWD" psql --no-psqlrc --quiet --host "$POSTGRES_SEEDS" --port "$DB_PORT" \
        --username "$POSTGRES_USER" --dbname "$database" --command "select" >/dev/null
done
exec temporal server start-dev --headless --ip "$BIND_ON_IP" --port 7233 --db-filename /data/temporal.db \
    --sqlite-pragma journal_mode=wal --sqlite-pragma synchronous=normal --log-level warn \
    --dynamic-config-value history.transferProcessorMaxPollRPS=2000 \
    --dynamic-config-value history.timerProcessorMaxPollRPS=2000
