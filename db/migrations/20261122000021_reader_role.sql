-- migrate:up

-- Who reads for the screens: sees everything, changes nothing, and gives up after two seconds. Roles belong
-- to the whole server, so it may be there already, and on somebody else's server it may not be ours to make:
-- then the dashboard reads as the user of DATABASE_URL, in read-only transactions.
do $$
begin
    if not exists (select from pg_roles where rolname = 'orders_reader') then
        create role orders_reader login;
    end if;
    grant usage on schema public, provider to orders_reader;
    grant select on all tables in schema public, provider to orders_reader;
    alter default privileges in schema public, provider grant select on tables to orders_reader;
    alter role orders_reader set default_transaction_read_only = on;
    alter role orders_reader set statement_timeout = '2s';
    if not (select rolsuper from pg_roles where rolname = current_user) then
        execute format('grant orders_reader to %I with inherit false, set true', current_user);
    end if;
exception
    when insufficient_privilege then
        raise notice 'the role orders_reader was not made: %', sqlerrm;
    when duplicate_object or unique_violation then
        raise exception 'another database of this server made the role at the same moment; try again';
end
$$;

-- migrate:down
do $$
begin
    if exists (select from pg_roles where rolname = 'orders_reader') then
        alter default privileges in schema public, provider revoke select on tables from orders_reader;
        revoke select on all tables in schema public, provider from orders_reader;
        revoke usage on schema public, provider from orders_reader;
    end if;
end
$$;
