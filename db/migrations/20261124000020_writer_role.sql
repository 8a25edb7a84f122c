-- migrate:up

-- Who may do what, where the owner of the tables is not who works with them: orders_writer (API and workers)
-- writes orders, and can neither change the tables nor rewrite what has happened; orders_reader (dashboard)
-- reads. Roles belong to the whole server, so they may be there already, and may not be ours to make.
-- A later table is read by both; what the writer may do to it beyond that, its own migration grants.
do $$
begin
    if not exists (select from pg_roles where rolname = 'orders_writer') then
        create role orders_writer login;
        alter role orders_writer set statement_timeout = '60s';
        alter role orders_writer set idle_in_transaction_session_timeout = '5min';
    end if;
exception
    when insufficient_privilege then
        raise notice 'the role orders_writer was not made: %', sqlerrm;
    when duplicate_object or unique_violation then
        raise exception 'another database of this server made the role at the same moment; try again';
end
$$;

do $$
begin
    if exists (select from pg_roles where rolname = 'orders_reader') then
        grant usage on schema public, provider to orders_reader;
        grant select on all tables in schema public, provider to orders_reader;
        alter default privileges in schema public, provider grant select on tables to orders_reader;
        -- Who knows the hashes of keys may try keys at home.
        if to_regclass('api_keys') is not null then
            revoke all on api_keys from orders_reader;
        end if;
    end if;
    if exists (select from pg_roles where rolname = 'orders_writer') then
        grant usage on schema public, provider to orders_writer;
        grant select on all tables in schema public, provider to orders_writer;
        alter default privileges in schema public, provider grant select on tables to orders_writer;
        grant insert on events, provider.ledger, fault_changes to orders_writer;
        grant insert, update on orders, payments, shipments, runs, latency_rollup,
            provider.packages, provider.parcels to orders_writer;
        grant insert, update, delete on step_attempts to orders_writer;
    end if;
end
$$;

-- Partitions are made by whoever writes events, and by nobody else.
revoke execute on function ensure_event_partitions(int), rebuild_latency_rollup() from public;
do $$
begin
    if exists (select from pg_roles where rolname = 'orders_writer') then
        grant execute on function ensure_event_partitions(int) to orders_writer;
    end if;
end
$$;

-- migrate:down
grant execute on function ensure_event_partitions(int), rebuild_latency_rollup() to public;
do $$
begin
    if exists (select from pg_roles where rolname = 'orders_writer') then
        revoke execute on function ensure_event_partitions(int) from orders_writer;
        alter default privileges in schema public, provider revoke select on tables from orders_writer;
        revoke all on all tables in schema public, provider from orders_writer;
        revoke usage on schema public, provider from orders_writer;
    end if;
end
$$;
