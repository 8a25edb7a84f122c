-- The roles and databases of one PostgreSQL server, with least privilege. Run it as a superuser. It is idempotent:
-- it creates missing roles and databases, and sets all passwords and privileges.
--
--     psql --no-psqlrc --file orchestrator/deployment/roles.sql
--
-- The passwords are environment variables.
\set ON_ERROR_STOP on
\set QUIET on
\getenv migrator_password ORDERS_MIGRATOR_PASSWORD
\getenv writer_password ORDERS_WRITER_PASSWORD
\getenv api_password ORDERS_API_PASSWORD
\getenv loadtest_password ORDERS_LOADTEST_PASSWORD
\getenv reader_password ORDERS_READER_PASSWORD
\getenv temporal_password TEMPORAL_DB_PASSWORD

-- The statements below contain passwords, which must not appear in the server's log.
set log_statement = 'none';
set log_min_error_statement = 'panic';
set log_min_duration_statement = -1;
set password_encryption = 'scram-sha-256';

select format('create role %I', name)
from unnest(array[
    'orders_migrator', 'orders_writer', 'orders_api', 'orders_loadtest', 'orders_reader', 'temporal'
]) name
where not exists (select from pg_roles where rolname = name)
\gexec

-- Owner of the tables. Applies migrations only.
alter role orders_migrator with login nosuperuser nocreatedb nocreaterole noreplication nobypassrls
    password :'migrator_password';

-- Workers. Migrations grant the privileges on tables to this role and the following ones.
alter role orders_writer with login nosuperuser nocreatedb nocreaterole noreplication nobypassrls
    password :'writer_password';
alter role orders_writer set statement_timeout = '60s';
alter role orders_writer set idle_in_transaction_session_timeout = '5min';

-- API: the privileges of a worker, and access to the hashes of API keys.
alter role orders_api with login nosuperuser nocreatedb nocreaterole noreplication nobypassrls
    password :'api_password';
alter role orders_api set statement_timeout = '60s';
alter role orders_api set idle_in_transaction_session_timeout = '5min';
grant orders_writer to orders_api;

-- Load tests: access to the records of runs.
alter role orders_loadtest with login nosuperuser nocreatedb nocreaterole noreplication nobypassrls
    password :'loadtest_password';
alter role orders_loadtest set statement_timeout = '60s';
alter role orders_loadtest set idle_in_transaction_session_timeout = '5min';

-- Dashboard.
alter role orders_reader with login nosuperuser nocreatedb nocreaterole noreplication nobypassrls
    password :'reader_password';
alter role orders_reader set default_transaction_read_only = on;
alter role orders_reader set statement_timeout = '2s';
alter role orders_reader set idle_in_transaction_session_timeout = '1min';

-- Temporal's server. Its databases are created here, so that it needs no privilege to create databases.
alter role temporal with login nosuperuser nocreatedb nocreaterole noreplication nobypassrls
    password :'temporal_password';

select format('create database %I owner %I', name, owner)
from (values ('orders', 'orders_migrator'), ('temporal', 'temporal'), ('temporal_visibility', 'temporal'))
    databases (name, owner)
where not exists (select from pg_database where datname = name)
\gexec

-- By default, PUBLIC may connect to every database.
revoke all on database postgres, orders, temporal, temporal_visibility from public;
grant connect on database orders to orders_writer, orders_api, orders_loadtest, orders_reader;
