-- migrate:up

-- Who may know the hashes of keys: orders_api alone, which is otherwise as orders_writer (the workers now).
-- And orders_loadtest, which keeps the records of load tests and only reads everything else.
do $$
declare
    name text;
begin
    foreach name in array array['orders_api', 'orders_loadtest'] loop
        if not exists (select from pg_roles where rolname = name) then
            execute format('create role %I login', name);
            execute format('alter role %I set statement_timeout = %L', name, '60s');
            execute format('alter role %I set idle_in_transaction_session_timeout = %L', name, '5min');
            if name = 'orders_api' then
                grant orders_writer to orders_api;
            end if;
        end if;
    end loop;
exception
    when insufficient_privilege or undefined_object then
        raise notice 'the roles orders_api and orders_loadtest were not made: %', sqlerrm;
    when duplicate_object or unique_violation then
        raise exception 'another database of this server made the roles at the same moment; try again';
end
$$;

do $$
begin
    -- Where there is no user of its own for the API, it goes on as orders_writer.
    if exists (select from pg_roles where rolname = 'orders_api') then
        grant select on api_keys to orders_api;
        if exists (select from pg_roles where rolname = 'orders_writer') then
            revoke all on api_keys from orders_writer;
        end if;
    end if;
    if exists (select from pg_roles where rolname = 'orders_loadtest') then
        grant usage on schema public, provider to orders_loadtest;
        grant select on all tables in schema public, provider to orders_loadtest;
        alter default privileges in schema public, provider grant select on tables to orders_loadtest;
        revoke all on api_keys from orders_loadtest;
        grant insert, update on runs to orders_loadtest;
        grant insert on disturbances to orders_loadtest;
    end if;
end
$$;

-- migrate:down
do $$
begin
    if exists (select from pg_roles where rolname = 'orders_loadtest') then
        alter default privileges in schema public, provider revoke select on tables from orders_loadtest;
        revoke all on all tables in schema public, provider from orders_loadtest;
        revoke usage on schema public, provider from orders_loadtest;
    end if;
    if exists (select from pg_roles where rolname = 'orders_api') then
        revoke all on api_keys from orders_api;
    end if;
    if exists (select from pg_roles where rolname = 'orders_writer') then
        grant select on api_keys to orders_writer;
    end if;
end
$$;
