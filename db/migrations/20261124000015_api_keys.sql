-- migrate:up

-- Who may use the API. A key itself is stored nowhere, only its SHA-256: keys are 256 random bits, which
-- nobody finds by trying, so a slow hash would only cost time. Revoked keys stay: that a key ever existed is
-- what closes the system to those who have none.
create table api_keys (
    key_hash text primary key check (key_hash ~ '^[0-9a-f]{64}$'),
    name text not null check (name ~ '^[A-Za-z0-9_.@-]{1,64}$'),
    role text not null check (role in ('viewer', 'operator', 'chaos')),
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);
create unique index api_keys_name on api_keys (name) where revoked_at is null;

-- Whether there is a key that works, for parts that may not read the table.
create function api_key_exists() returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
return exists (select from public.api_keys where revoked_at is null);

do $$
begin
    if exists (select from pg_roles where rolname = 'orders_reader') then
        revoke all on api_keys from orders_reader;
    end if;
end
$$;

-- migrate:down
drop function api_key_exists;
drop table api_keys;
