-- migrate:up

-- The database roles of the processes:
--   orders_writer    workers: write orders, cannot change tables or rewrite events
--   orders_api       the API: as orders_writer, and may read the hashes of API keys
--   orders_loadtest  load tests: write their runs, read everything else
--   orders_reader    the dashboard: reads, with a statement timeout of 2 s
-- All of them can read tables of later migrations. Each later migration grants the other privileges on its tables.
--
-- Roles belong to the whole server, so they may exist already. On a managed server this user may not be allowed to
-- create them: then the processes use the user of DATABASE_URL.
do $$
declare
    name text;
begin
    foreach name in array array['orders_writer', 'orders_api', 'orders_loadtest', 'orders_reader'] loop
        if not exists (select from pg_roles where rolname = name) then
            execute format('create role %I login', name);
            if name <> 'orders_reader' then
                execute format('alter role %I set statement_timeout = %L', name, '60s');
                execute format('alter role %I set idle_in_transaction_session_timeout = %L', name, '5min');
            end if;
            if name = 'orders_api' then
                grant orders_writer to orders_api;
            end if;
        end if;
    end loop;
exception
    when insufficient_privilege or undefined_object then
        raise notice 'the roles were not created: %', sqlerrm;
    when duplicate_object or unique_violation then
        raise exception 'another database of this server is creating the roles; retry';
end
$$;

do $$
begin
    if exists (select from pg_roles where rolname = 'orders_reader') then
        alter role orders_reader set default_transaction_read_only = on;
        alter role orders_reader set statement_timeout = '2s';
        if not (select rolsuper from pg_roles where rolname = current_user) then
            -- PostgreSQL 15 has no such options: every member may set the role.
            execute format('grant orders_reader to %I', current_user)
                || case when current_setting('server_version_num')::int >= 160000
                    then ' with inherit false, set true' else '' end;
        end if;
    end if;
exception
    when insufficient_privilege then
        raise notice 'the role orders_reader was not configured: %', sqlerrm;
end
$$;

do $$
declare
    name text;
begin
    for name in
        select rolname from pg_roles where rolname in ('orders_writer', 'orders_loadtest', 'orders_reader')
    loop
        execute format('grant usage on schema public, provider to %I', name);
        execute format('grant select on all tables in schema public, provider to %I', name);
        execute format('alter default privileges in schema public, provider grant select on tables to %I', name);
        execute format('revoke all on api_keys from %I', name);
    end loop;
    if exists (select from pg_roles where rolname = 'orders_writer') then
        grant insert on events, provider.ledger, fault_changes, disturbances to orders_writer;
        grant insert, update on orders, payments, shipments, reconcilers, runs, latency_rollup,
            provider.packages, provider.parcels to orders_writer;
        grant insert, update, delete on step_attempts to orders_writer;
    end if;
    if exists (select from pg_roles where rolname = 'orders_loadtest') then
        grant insert, update on runs to orders_loadtest;
        grant insert on disturbances to orders_loadtest;
    end if;
    if exists (select from pg_roles where rolname = 'orders_api') then
        grant select on api_keys to orders_api;
        grant delete on runs to orders_api;
        grant insert, update, delete on baseline_run, rejected_starts to orders_api;
    elsif exists (select from pg_roles where rolname = 'orders_writer') then
        -- Without its own role, the API connects as orders_writer.
        grant select on api_keys to orders_writer;
        grant delete on runs to orders_writer;
        grant insert, update, delete on baseline_run, rejected_starts to orders_writer;
    end if;
end
$$;

-- migrate:down
do $$
declare
    name text;
begin
    for name in
        select rolname from pg_roles
        where rolname in ('orders_writer', 'orders_api', 'orders_loadtest', 'orders_reader')
    loop
        execute format('alter default privileges in schema public, provider revoke select on tables from %I', name);
        execute format('revoke all on all tables in schema public, provider from %I', name);
        execute format('revoke usage on schema public, provider from %I', name);
    end loop;
end
$$;
